"""Where arrays live and how devices share them.

sharding.py      the (data, fsdp) mesh and where arrays live on it
host_memory.py   settings of the host's allocator
libtpu_lock.py   who uses the TPUs of a machine
kernels/         a ViT's blocks as TPU kernels
"""
