"""Where arrays live and how devices share them.

sharding.py           the (data, fsdp) mesh and what lies where on it
compilation_cache.py  compiled programs for the next start
host_memory.py        how the allocator of a host is set
libtpu_lock.py        who uses the TPUs of a machine
kernels/              a ViT's blocks as TPU kernels
"""
