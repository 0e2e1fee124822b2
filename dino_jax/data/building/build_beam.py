"""Builds ArrayRecord shards with Apache Beam, for data that one machine can't read.

  pip install 'dino_jax[beam]'
  dino-jax build-beam gs://bucket/crawl --kind=tar \
    --out=gs://bucket/records --shards=4096 --compute-stats

makes the same shards, dataset.json and report.txt as the local build with the same options; options
after those of the build are passed to Beam. On one machine:

  … --runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=16

On Google Cloud Dataflow (not run here: it needs an account):

  … --runner=DataflowRunner --project=PROJECT --region=us-central1 --temp_location=gs://bucket/tmp \
    --setup_file=./setup.py --max_num_workers=500 --number_of_worker_harness_threads=4

`--setup_file` installs this package on the workers, which also need gcsfs, array_record, Pillow and
the packages of the source: a container image with them (--sdk_container_image) starts faster.
Source and folder must be reachable from all workers, so gs:// there. The command lists the source
once and stores it, pickled, in the folder; the pipeline carries its SHA-256, and no worker process
loads another file. An image is decoded by one thread, which takes up to 12 bytes per pixel of
--max-pixels.

A pipeline that has failed starts again from the beginning when it is run again.
"""

# pyright: reportMissingImports=false
# (apache_beam is an extra)

import dataclasses
import os
import sys

from etils import epath

from dino_jax.commands.command_line import CommandParser, docstring_of, run_command
from dino_jax.commands.one_writer import one_writer
from dino_jax.data.building.build import add_arguments, options_of
from dino_jax.data.building.build_plan import PLAN, Options, open_source
from dino_jax.data.building.output_folder import open_folder
from dino_jax.data.sources.record_format import DESCRIPTION
from dino_jax.workdir.paths import absolute_path


def build(options: Options, out: str, max_unreadable: float, beam_arguments: list[str]) -> None:
    """Runs the pipeline to its end.

    Args:
      options: options of the build.
      out: the folder, local or gs://.
      max_unreadable: largest share of unreadable images, in [0, 1].
      beam_arguments: arguments for Beam's PipelineOptions.

    Raises:
      ValueError: if `out` belongs to another build, or the source or the options are wrong.
      OSError: if the source is missing or `out` can't be written.
      RuntimeError: Beam's, if a step fails.
      ImportError: if Beam is not installed.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        from dino_jax.data.building.beam_pipeline import (
            SOURCE_FILE,
            BeamBuild,
            add_steps,
            write_source,
        )
    except ImportError as error:
        raise ImportError("build-beam needs Apache Beam: pip install 'dino_jax[beam]'") from error
    if options.shards < 1:
        raise ValueError("a pipeline needs --shards, such as one for every GiB of images")
    source = open_source(options)
    open_folder(out, PLAN, dataclasses.asdict(options), source, "build")
    if (epath.Path(out) / DESCRIPTION).exists():
        print(f"{out} is already complete")
        return
    digest = write_source(source, out)
    beam_build = BeamBuild(options, out, digest, len(source), source.class_names, max_unreadable)
    with beam.Pipeline(options=PipelineOptions(beam_arguments)) as pipeline:
        add_steps(pipeline, beam_build)
    (epath.Path(out) / SOURCE_FILE).unlink()
    print(f"done: {options.shards:,} shards in {out}, see report.txt")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = CommandParser("build-beam", __doc__ or docstring_of(__file__))
    add_arguments(parser)
    arguments, beam_arguments = parser.parse_known_args(argv)

    def work() -> str:
        out = os.fspath(absolute_path(arguments.out))
        with one_writer(out, "--out"):
            build(options_of(arguments), out, arguments.max_unreadable, beam_arguments)
        return ""

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
