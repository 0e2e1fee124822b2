"""Weights from elsewhere, in and out: other code bases, earlier runs, frozen roles.

model.py         `dino_jax.load`: a trained backbone to use
init_from.py     the first weights of a run; frozen.py roles that stay as they are; source.py both
import_weights.py, export_weights.py   the commands; weights_file.py a network out of a file
state_dict.py    the tensors of a file; torch_file.py and pickle_machine.py execute nothing in it
dialects.py      whose names these are: timm_names.py, huggingface_names.py; torch_names.py maps
                 official names to our variables and back
architecture.py  the network that tensors are for; model_card.py and huggingface_config.py the
                 files beside them
"""

from dino_jax.weights.state_dict import read_state_dict
from dino_jax.weights.torch_names import from_torch, split_state_dict, to_torch

__all__ = ["from_torch", "read_state_dict", "split_state_dict", "to_torch"]
