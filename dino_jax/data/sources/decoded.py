"""Sources whose images are not decoded as RGB."""

from dino_jax.data.decoding import RGB, Decoding
from dino_jax.data.sources.base import Contents, ImageSource, Record


class DecodedSource:
    """A source that says how its images become pixels."""

    def __init__(self, source: ImageSource, decoding: Decoding):
        """Takes a source, kept as `original`."""
        self.original, self.decoding = source, decoding
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self.original)

    def __getitem__(self, index: int) -> Record:
        return {**self.original[index], "decoding": self.decoding}

    def name(self, index: int) -> str:
        """As the source says."""
        return self.original.name(index)


def decoded(source: ImageSource, decoding: Decoding) -> ImageSource:
    """The source, whose images become pixels as `decoding` says."""
    return source if decoding == RGB else DecodedSource(source, decoding)


def describe_decoding(contents: Contents, decoding: Decoding) -> Contents:
    """Contents of a source that are told from those of another decoding."""
    return Contents(contents.images, contents.names, [contents.details, repr(decoding)])
