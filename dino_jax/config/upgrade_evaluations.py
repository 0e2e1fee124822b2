"""Evaluations, guard and probes of version 0.1 in today's form; see upgrade.py."""

from typing import Any

Plain = dict[str, Any]
# Kinds of images that need no path, which today's configs with such images measure, too.
WITHOUT_PATH = ("digits", "tfds", "mixture")


def _evaluations(config: Plain) -> Plain:
    """One k-NN, with proxies of its test images if asked, is a table of evaluations."""
    if "knn" not in config:
        return config
    old, guard = config["knn"], config.get("guard", {})
    rest = {name: value for name, value in config.items() if name != "knn"}
    if "image_size" in old:
        rest["image_size"] = old["image_size"]
    if "test" not in old:  # a folder of imported weights
        return rest
    measure, every_epochs, test = old.get("measure", "knn"), old["every_epochs"], old["test"]
    roles = list(old["networks"]) + ["frozen_teacher"] * bool(config.get("distill", {}).get("path"))
    reading = {"image_size": None, "batch_size": old["batch_size"]}
    moved = ("train", "test", "max_train_images", "max_test_images", "k", "temperature")
    knn = {
        "kind": "knn",
        "every_epochs": 0.0 if measure == "proxies" else every_epochs,
        "of": [] if roles == ["teacher"] else roles,
        "raw_pixels": old.get("raw_pixels", False),
        **reading,
        **{name: old[name] for name in moved},
    }
    without_labels = {"max_images": old["max_test_images"], "k": old["k"][0], **reading}
    proxies = {
        "kind": "proxies",
        "every_epochs": every_epochs,
        "of": ["teacher", "student"],
        "images": test if measure != "knn" else _without_path(test),
        **without_labels,
    }
    agreement = {
        "kind": "agreement",
        "every_epochs": 0.0,
        "of": [],
        "images": test if guard.get("measure") == "agreement" else _without_path(test),
        **without_labels,
    }
    table = {"knn": knn, "proxies": proxies, "agreement": agreement}
    return rest | {"evaluations": table}


def _without_path(images: Plain) -> Plain:
    """Images that were not read: no path, so that they are left out."""
    return images | {"path": ""} if images.get("kind") in WITHOUT_PATH else {}


def _guard(config: Plain) -> Plain:
    """The guard compares what an evaluation measures."""
    old = config.get("guard", {})
    guard = {"evaluation" if name == "measure" else name: value for name, value in old.items()}
    return config | {"guard": guard} if guard else config


def _probes(config: Plain) -> Plain:
    """Probes are the held-out images of an evaluation, or training images."""
    old = config.get("probes", {})
    probes = {name: value for name, value in old.items() if name != "source"}
    if "source" in old:
        probes["evaluation"] = "knn" if old["source"] == "test" else ""
    return config | {"probes": probes} if probes else config


SECTIONS = (_evaluations, _guard, _probes)  # in this order: the first reads the old guard
