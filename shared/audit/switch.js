"use strict";
(() => {
  const page = document.documentElement;
  const button = document.getElementById("switch");
  const show = (language) => {
    page.dataset.language = language;
    page.lang = language === "zh" ? "zh-CN" : "en";
  };
  show(new URLSearchParams(location.search).get("lang") === "zh" ? "zh" : "en");
  button.hidden = false;
  button.addEventListener("click", () => show(page.dataset.language === "zh" ? "en" : "zh"));
})();
