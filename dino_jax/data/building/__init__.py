"""Any source of images -> ArrayRecord shards.

build.py          the command, on one machine; build_workers.py runs its parts in processes
build_beam.py     the same on Apache Beam; beam_pipeline.py holds its steps
build_plan.py     the options of a build; build_report.py reports its findings
shrink.py         makes large photographs smaller
inspection.py     which images are readable and new, and their statistics
output_folder.py  a folder that belongs to one command and its options
"""
