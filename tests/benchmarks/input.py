"""Speed and fidelity of the input pipeline: python -m tests.benchmarks.input --photos=DIR.

Compares with the official semantics in plain Pillow (decode, 2 crops of 224 and 8 of 96 pixels,
float32 normalization). Speed is CPU time of all threads on one core, methods interleaved, because
other programs disturb it less than the clock on the wall.
"""

import functools
import io
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from configs import vits16_vanilla
from dino_jax.config.change import change
from dino_jax.data.back_ends import Batch
from dino_jax.data.decode import decode_image
from dino_jax.data.multi_crop import MultiCrop, allocate, build_multi_crop, compile_kernels
from dino_jax.data.pipeline import build_train_stream
from dino_jax.run.whole_config import read_config
from tests import plain_augment
from tests.benchmarks.fidelity import measure_fidelity

_PHOTOS = flags.DEFINE_string("photos", None, "Folder of images.", required=True)
_REPEAT = flags.DEFINE_integer("repeat", 5, "Rounds over all images.", lower_bound=1)

MEAN = np.array((0.485, 0.456, 0.406), np.float32)  # torchvision
STD = np.array((0.229, 0.224, 0.225), np.float32)
LIMIT = 2**62  # pixels
BATCH = 32
WARM_UP, MEASURED = 4, 24  # batches


class PhotoSource:
    """Encoded photographs in memory, over and over."""

    class_names = None

    def __init__(self, photos: list[bytes], length: int = 1 << 20):
        self._photos, self._length = photos, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        return {"image": self._photos[index % len(self._photos)], "label": -1, "name": str(index)}

    def name(self, index: int) -> str:
        return f"photo {index % len(self._photos)}"


def make_official(photo: bytes, multi_crop: MultiCrop, seed: int) -> list[np.ndarray]:
    """[3, H, W] normalized float32 crops, by Pillow."""
    rng = np.random.default_rng(seed)
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    crops = []
    drawn = multi_crop.sample(rng, [(image.height, image.width)])
    for group in multi_crop.groups.values():
        for key, config in group.crops:
            pixels = plain_augment.apply_crop(image, drawn[key], config, plain_augment.resize)
            crop = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
            crop /= 255
            crop -= MEAN[:, None, None]
            crop /= STD[:, None, None]
            crops.append(crop)
    return crops


def run_official(photos: list[bytes], multi_crop: MultiCrop) -> None:
    for seed, photo in enumerate(photos):
        make_official(photo, multi_crop, seed)


def run_ours(photos: list[bytes], multi_crop: MultiCrop, batch: Batch) -> None:
    """Fills one batch over and over, as workers do with their slots."""
    for start in range(0, len(photos), BATCH):
        part = photos[start : start + BATCH]
        multi_crop.begin(batch, np.random.default_rng(start))
        for row, photo in enumerate(part):
            image = decode_image(photo, LIMIT)
            multi_crop.fill(batch, row, image, np.random.default_rng(start + row))


def run_decode(photos: list[bytes]) -> None:
    for photo in photos:
        decode_image(photo, LIMIT)


def measure_speed(methods: dict[str, Callable[[], None]], images: int, repeat: int) -> None:
    """Prints CPU milliseconds per image and the ratio to the first method, medians over rounds."""
    times = {name: [] for name in methods}
    for _ in range(repeat):
        for name, method in methods.items():
            start = time.process_time()
            method()
            times[name].append((time.process_time() - start) / images)
    first = np.array(next(iter(times.values())))
    print(
        f"{'one core, CPU time':28}{'ms/image':>10}{'images/s':>10}"
        f"{'ratio':>8}{'low':>8}{'high':>8}"
    )
    for name, seconds in times.items():
        ratio, median = first / seconds, np.median(seconds)
        print(
            f"{name:28}{1e3 * median:10.2f}{1 / median:10.0f}{np.median(ratio):8.2f}"
            f"{ratio.min():8.2f}{ratio.max():8.2f}"
        )


def cpu_seconds(processes: list[int]) -> float:
    """Of some processes with all their threads, from /proc."""
    total = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def work_alone(photos: list[bytes], multi_crop: MultiCrop, results) -> None:
    """One bare process: CPU and wall seconds per image."""
    batch = allocate(multi_crop, BATCH)
    run_ours(photos[:BATCH], multi_crop, batch)
    cpu, wall = time.process_time(), time.perf_counter()
    for index in range(MEASURED):
        start = index * BATCH % len(photos)
        run_ours([*photos, *photos][start : start + BATCH], multi_crop, batch)
    images = MEASURED * BATCH
    results.put(((time.process_time() - cpu) / images, (time.perf_counter() - wall) / images))


def measure_bare(photos: list[bytes], multi_crop: MultiCrop, count: int) -> tuple[float, float]:
    """CPU seconds per image and images per second of `count` processes side by side."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (photos, multi_crop, results)
    processes = [context.Process(target=work_alone, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    pairs = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return float(np.mean([cpu for cpu, _ in pairs])), sum(1 / wall for _, wall in pairs)


def measure_grain(photos: list[bytes], multi_crop: MultiCrop, workers: int) -> tuple[float, float]:
    """CPU seconds per image, all processes, and images per second of the training stream."""
    options = {"seed": 0, "batch_size": BATCH, "start_step": 0, "host": 0, "hosts": 1}
    options |= {"workers": workers, "threads": 1, "max_pixels": LIMIT}
    stream = build_train_stream(PhotoSource(photos), multi_crop, **options)
    for _ in range(WARM_UP * workers):
        next(stream)
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    cpu, wall = cpu_seconds(processes), time.perf_counter()
    for _ in range(MEASURED * workers):
        next(stream)
    images = MEASURED * workers * BATCH
    cpu, wall = cpu_seconds(processes) - cpu, time.perf_counter() - wall
    stream.close()
    return cpu / images, images / wall


def measure_overhead(photos: list[bytes], multi_crop: MultiCrop, repeat: int) -> None:
    """Prints what share of bare processes the stream with as many workers reaches."""
    print(
        f"\n{'workers':9}{'':10}{'ms CPU/image':>14}{'images/s':>10}{'share: CPU':>12}{'wall':>8}"
    )
    for workers in (1, 2):
        rounds = [
            (measure_bare(photos, multi_crop, workers), measure_grain(photos, multi_crop, workers))
            for _ in range(repeat)
        ]
        bare, grain = np.median(rounds, axis=0)
        cpu, wall = np.median([(b[0] / g[0], g[1] / b[1]) for b, g in rounds], axis=0)
        print(f"{workers:<9}{'processes':10}{1e3 * bare[0]:14.2f}{bare[1]:10.0f}")
        print(f"{'':9}{'stream':10}{1e3 * grain[0]:14.2f}{grain[1]:10.0f}{cpu:12.1%}{wall:8.1%}")


def main(argv: list[str]) -> None:
    del argv
    paths = sorted(path for path in Path(_PHOTOS.value).rglob("*") if path.suffix == ".jpg")
    photos = [path.read_bytes() for path in paths]
    augment = read_config(vits16_vanilla.get_config()).augment
    names = ("host", "device", "canvas")
    back_ends = {name: build_multi_crop(change(augment, {"backend": name})) for name in names}
    start = time.perf_counter()
    for multi_crop in back_ends.values():
        compile_kernels(multi_crop)
    print(f"{len(photos)} photographs; kernels ready after {time.perf_counter() - start:.1f} s\n")

    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    ours = {
        f"ours, {name} back end": functools.partial(
            run_ours, photos, multi_crop, allocate(multi_crop, BATCH)
        )
        for name, multi_crop in back_ends.items()
    }
    methods = {
        "plain Pillow, float32": functools.partial(run_official, photos, back_ends["host"]),
        **ours,
        "ours, decoding alone": functools.partial(run_decode, photos),
    }
    measure_speed(methods, len(photos), _REPEAT.value)
    os.sched_setaffinity(0, cores)
    measure_overhead(photos, back_ends["host"], _REPEAT.value)
    measure_fidelity([decode_image(photo, LIMIT) for photo in photos], back_ends["host"])


if __name__ == "__main__":
    app.run(main)
