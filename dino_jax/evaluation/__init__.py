"""Judges frozen features: by the protocols of the papers, and while a model trains.

protocols/   one file = one protocol of `dino-jax evaluate`; result.py writes what it found
options/     the help and the options of each, without jax
online/      one file = one kind of `config.evaluations`
features     features.py of a data set, frozen.py with labels, image_files.py of any shapes,
             multi_scale.py; sharing.py splits the work over processes
data sets    labelled.py, segmentation_files.py, depth_files.py, davis.py, copydays.py,
             revisited.py; crops.py and reading.py make batches of them
classifiers  knn.py, logistic.py, linear_*.py; linear_probe.py (per patch),
             released_classifier.py
measures     accuracy.py, ranking.py, overlap.py (mIoU), mask_measures.py (J and F), depth.py,
             neighbours.py
methods      search.py, whitening.py, propagation.py, sliding.py, bilinear.py
"""
