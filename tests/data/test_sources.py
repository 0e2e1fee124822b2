"""Folders, TFDS data sets and digits as sources of encoded images."""

import hashlib
import os
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from dino_jax.data.decode import decode_image
from dino_jax.data.sources import DigitsSource, FolderSource, TfdsSource, build_source, folder
from dino_jax.data.sources import tfds as tfds_module


def _png(level):
    buffer = BytesIO()
    Image.fromarray(np.full((6, 5, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _write(root, *names):
    for level, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(level))


def _relative(source, root):
    return [os.path.relpath(source.path(index), root) for index in range(len(source))]


def test_a_folder_is_searched_recursively_in_the_order_of_relative_paths(tmp_path):
    _write(tmp_path, "b/2.PNG", "a.JpEg", "b/c/1.webp", "b/10.tiff")
    (tmp_path / "b/notes.txt").write_text("no image")
    source = FolderSource(tmp_path)
    assert _relative(source, tmp_path) == ["a.JpEg", "b/10.tiff", "b/2.PNG", "b/c/1.webp"]
    assert source[2]["image"] == _png(0)


def test_class_folders_give_labels_at_their_first_level(tmp_path):
    _write(tmp_path, "dog/x/1.png", "cat/1.png", "cat/2.png")
    source = FolderSource(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert [source[index]["label"] for index in range(3)] == [0, 0, 1]


def test_one_image_outside_the_class_folders_means_no_labels(tmp_path):
    _write(tmp_path, "dog/1.png", "2.png")
    source = FolderSource(tmp_path)
    assert source.class_names == ()
    assert {source[index]["label"] for index in range(2)} == {-1}


def test_hidden_files_and_links_that_lead_outside_are_skipped(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    _write(root, "1.png", ".2.png", ".hidden/3.png")
    _write(outside, "4.png")
    (root / "linked").symlink_to(outside)
    (root / "5.png").symlink_to(outside / "4.png")
    (root / "6.png").symlink_to(root / "1.png")
    (root / "loop").symlink_to(root)
    assert _relative(FolderSource(root), root) == ["1.png", "6.png"]


def test_a_link_to_the_folder_itself_is_followed(tmp_path):
    _write(tmp_path / "root", "1.png")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    assert len(FolderSource(tmp_path / "link")) == 1


def plain_listing(root: Path) -> list[str]:
    """What a folder holds by its rules, with a look at each file; links to folders are no files."""
    inside, found = os.path.realpath(root), []
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place, name) for name in files if not name.startswith(".")):
            if not path.is_symlink() or f"{os.path.realpath(path)}/".startswith(f"{inside}/"):
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


def test_links_pipes_and_circles_are_listed_as_a_look_at_each_would(tmp_path):
    root = tmp_path / "root"
    _write(root, "a.png", "b/c/d.png", "b/.e.png", "b/c/f.PNG")
    _write(tmp_path / "outside", "o.png")
    links = {"in": "a.png", "broken": "none", "circle": "circle", "b/up": "..", "b/same": "c/d.png"}
    links |= {"out": "../outside/o.png", "gone": "../none", "folder": "b/c", "far": "../outside"}
    for name, target in links.items():
        (root / f"{name}.png").symlink_to(target)
    os.mkfifo(root / "pipe.png")
    listed = sorted(folder._list_local(str(root)))
    assert listed == plain_listing(root)
    assert {"in.png", "broken.png", "circle.png", "b/same.png", "pipe.png"} < set(listed)
    assert not {"out.png", "gone.png", "folder.png", "far.png", "b/up.png"} & set(listed)


def test_a_listing_asks_the_storage_about_folders_and_not_about_files(tmp_path, monkeypatch):
    def count(files: int) -> int:
        root = tmp_path / str(files)
        for number in range(files):
            (root / "a").mkdir(parents=True, exist_ok=True)
            (root / "a" / f"{number}.png").touch()
        asked = []
        with monkeypatch.context() as patch:
            for name in ("stat", "lstat", "readlink", "scandir"):
                real = getattr(os, name)
                patch.setattr(os, name, lambda *a, real=real, **k: asked.append(a) or real(*a, **k))
            assert len(FolderSource(root)) == files
        return len(asked)

    assert count(100) == count(2)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    _write(tmp_path, "a/1.png", "b/2.png")
    real = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        FolderSource(tmp_path)


def test_names_in_any_script_and_encoding_are_found_again(tmp_path):
    names = ["ünï/картинка.png", "ünï/猫 1.png", os.fsdecode(b"x/\xff\xfe.png")]
    _write(tmp_path, *names)
    source = FolderSource(tmp_path)
    assert set(_relative(source, tmp_path)) == set(names)
    assert all(source[index]["image"].startswith(b"\x89PNG") for index in range(3))


def test_a_folder_source_survives_pickling(tmp_path):
    _write(tmp_path, "a/1.png", "b/2.png")
    source = FolderSource(tmp_path)
    other = pickle.loads(pickle.dumps(source))
    assert [other[index] for index in range(2)] == [source[index] for index in range(2)]


def test_remote_and_local_listings_agree(tmp_path):
    _write(tmp_path, "b/2.PNG", "a.jpeg", "b/c/1.webp", ".h/3.png", "d/.4.png")
    (tmp_path / "b/notes.txt").write_text("no image")
    remote = sorted(folder._list_remote(epath.Path(tmp_path)))
    assert remote == sorted(folder._list_local(str(tmp_path)))
    assert remote == ["a.jpeg", "b/2.PNG", "b/c/1.webp", "b/notes.txt"]


def test_an_empty_folder_says_what_was_seen_and_what_counts(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.npz").write_text("")
    with pytest.raises(ValueError, match=r"no images: 2 other files were seen; .*\.jpg"):
        FolderSource(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FolderSource(tmp_path / "nowhere")


def _weighted_knn_accuracy(train, train_labels, test, test_labels):
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    test = test / np.linalg.norm(test, axis=1, keepdims=True)
    similarity = test @ train.T
    nearest = np.argsort(-similarity, axis=1)[:, :10]
    weights = np.exp(np.take_along_axis(similarity, nearest, 1) / 0.07)
    votes = np.eye(10)[train_labels[nearest]] * weights[..., None]
    return np.mean(votes.sum(1).argmax(1) == test_labels)


def _all_records(source):
    records = [source[index] for index in range(len(source))]
    images = np.stack([record["image"] for record in records])
    return images, np.array([record["label"] for record in records])


def test_digits_are_rgb_images_split_into_train_and_test():
    (train, _), (test, _) = _all_records(DigitsSource("train")), _all_records(DigitsSource("test"))
    assert train.shape == (1438, 32, 32, 3)
    assert test.shape == (359, 32, 32, 3)
    assert train.dtype == np.uint8
    assert len(DigitsSource("all")) == 1797
    assert len({image.tobytes() for image in np.concatenate([train, test])}) == 1797
    assert DigitsSource("test").class_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("split", "images", "labels"),
    [
        ("train", "4f1017a8dd8393ff32542db326b9c1eb", "6a20061945045dc73b4c8730a4eed5b8"),
        ("test", "f7be84526e3d07d2e68d9e21da83a0ce", "a4e6b802f7183d4b155fe17e545a9e99"),
        ("all", "f4373c2691e98e9058dd74fac064b731", "8ba4f891220f5e4c9c819638d1602d74"),
    ],
)
def test_the_digits_are_those_that_version_0_1_took_from_scikit_learn(split, images, labels):
    source = DigitsSource(split)
    pixels, classes = hashlib.sha256(), hashlib.sha256()
    for record in (source[index] for index in range(len(source))):
        pixels.update(record["image"].tobytes())
        classes.update(bytes([record["label"]]))
    assert (pixels.hexdigest()[:32], classes.hexdigest()[:32]) == (images, labels)


def test_raw_pixels_of_the_digits_reach_the_documented_knn_accuracy():
    from sklearn.datasets import load_digits

    def pixels(split):
        images, labels = _all_records(DigitsSource(split))
        # The centers of the 4x4 blocks come closest to the original 8x8 pixels.
        return images[:, 2::4, 2::4, 0].reshape(len(images), -1).astype(float), labels

    enlarged = _weighted_knn_accuracy(*pixels("train"), *pixels("test"))
    assert enlarged == pytest.approx(0.972, abs=0.015)
    permutation = np.random.RandomState(0).permutation(1797)
    data, target = load_digits(return_X_y=True)
    test, train = permutation[:359], permutation[359:]
    np.testing.assert_array_equal(pixels("test")[1], target[test])
    original = _weighted_knn_accuracy(data[train], target[train], data[test], target[test])
    assert original == pytest.approx(0.9721, abs=1e-4)


def _prepare_tfds(data_dir, with_label=True):
    """Prepares a data set of five PNGs as ArrayRecord, without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class TinyPictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image()}
            if with_label:
                features["label"] = tfds.features.ClassLabel(names=["even", "odd"])
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for level in range(5):
                example = {"image": BytesIO(_png(level)), "label": level % 2}
                yield level, example if with_label else {"image": example["image"]}

    TinyPictures(data_dir=data_dir, file_format="array_record").download_and_prepare()


def test_tfds_records_are_the_encoded_images_with_labels(tmp_path):
    _prepare_tfds(tmp_path)
    source = TfdsSource("tiny_pictures", "train", str(tmp_path))
    records = [source[index] for index in range(len(source))]
    assert source.class_names == ("even", "odd")
    assert source.name(3) == "tiny_pictures/train[3]"
    levels = [decode_image(record["image"], 100)[0, 0, 0] for record in records]
    assert sorted(levels) == [0, 1, 2, 3, 4]
    assert [record["label"] for record in records] == [level % 2 for level in levels]
    assert pickle.loads(pickle.dumps(source))[2] == records[2]
    assert len(TfdsSource("tiny_pictures", "train[:2]", str(tmp_path))) == 2


def test_an_unreadable_rest_of_another_version_of_tfds_data_stops_nobody(tmp_path):
    folder = tmp_path / "pictures/0.9.0"
    folder.mkdir(parents=True)
    (folder / "features.json").symlink_to("features.json")
    tfds_module._require_files("pictures", str(tmp_path))
    os.mkfifo(folder / "dataset_info.json")
    with pytest.raises(OSError, match=r"dataset_info\.json' is a pipe"):
        tfds_module._require_files("pictures", str(tmp_path))


def test_tfds_data_without_a_class_label_has_no_labels(tmp_path):
    _prepare_tfds(tmp_path, with_label=False)
    source = TfdsSource("tiny_pictures", "train", str(tmp_path))
    assert source.class_names == ()
    assert source[0]["label"] == -1


def test_unprepared_tfds_data_says_how_to_prepare_it(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(ValueError, match=r"tfds\.builder\('cifar10'.*array_record.*download_and_"):
        TfdsSource("cifar10", "train", str(tmp_path))


def test_an_unknown_tfds_split_is_named(tmp_path):
    _prepare_tfds(tmp_path)
    with pytest.raises(ValueError, match="validation"):
        TfdsSource("tiny_pictures", "validation", str(tmp_path))


def test_an_unknown_tfds_name_is_named(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(ValueError, match="'no_such_pictures'"):
        TfdsSource("no_such_pictures", "train", str(tmp_path))


def test_build_source_reads_only_what_its_kind_needs(tmp_path):
    _write(tmp_path, "1.png")
    assert len(build_source(ConfigDict({"kind": "folder", "path": str(tmp_path)}))) == 1
    assert len(build_source(ConfigDict({"kind": "digits", "split": "test"}))) == 359


def test_unknown_kinds_and_splits_list_the_known_ones():
    with pytest.raises(ValueError, match=r"'tape'; (known|did you)"):
        build_source(ConfigDict({"kind": "tape"}))
    with pytest.raises(ValueError, match=r"'val'; known: \['all', 'test', 'train'\]"):
        build_source(ConfigDict({"kind": "digits", "split": "val"}))


def test_a_folder_source_without_a_path_says_so():
    with pytest.raises(ValueError, match="needs 'path'"):
        build_source(ConfigDict({"kind": "folder", "path": ""}))
