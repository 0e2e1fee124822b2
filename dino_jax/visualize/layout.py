"""Where the pictures of a run lie in its workdir.

crops.png                     some training images with their crops
probes/images/00.png          a probe image
probes/200/00_attention.png   attention of the cls token over the image, mean of the heads
probes/200/00_heads.png       the same for each head, side by side, without the image
probes/200/00_pca.png         first three principal components of the patches
probes/200/00_neighbours.png  nearest training images, side by side
probes/200/pca.npy            coordinates behind the colors, [P, h, w, 3] float16
probes/200/probes.json        names, labels, cosines; written last
"""

from etils import epath

CROPS_PNG = "crops.png"
PROBES = "probes"
PROBES_JSON = "probes.json"
PCA_NPY = "pca.npy"


def probe_image(workdir: epath.Path, number: int) -> epath.Path:
    """The file of a probe image."""
    return workdir / PROBES / "images" / f"{number:02d}.png"


def step_folder(workdir: epath.Path, step: int) -> epath.Path:
    """The folder of the evaluation after `step` updates."""
    return workdir / PROBES / str(step)


def drawn_steps(workdir: epath.Path) -> list[int]:
    """Steps with pictures, ascending; the last one may not be complete yet."""
    folder = workdir / PROBES
    if not folder.exists():
        return []
    return sorted(int(child.name) for child in folder.iterdir() if child.name.isdecimal())
