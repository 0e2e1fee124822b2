"""Weights from elsewhere, in and out: other code bases, earlier runs, frozen roles.

model.py         `dino_jax.load`: a trained backbone to use
init_from.py     the first weights of a run; frozen.py roles that stay as they are; source.py both
import_weights.py, export_weights.py   the command lines; importing.py and exporting.py their work;
                 weights_file.py a network out of a file; provenance.py what went into it
graph_export.py  programs for others: StableHLO, and with onnx/ ONNX graphs, also in 8 bits
state_dict.py    the tensors of a file; torch_file.py and pickle_machine.py execute nothing in it
dialects.py      whose names these are: timm_names.py, huggingface_names.py; torch_names.py maps
                 official names to our variables and back
architecture.py  the network that tensors are for; model_card.py and huggingface_config.py the
                 files beside them
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dino_jax.weights.state_dict import read_state_dict
    from dino_jax.weights.torch_names import from_torch, split_state_dict, to_torch

__all__ = ["from_torch", "read_state_dict", "split_state_dict", "to_torch"]


def __getattr__(name: str) -> Any:
    # Only now: `dino-jax import --help` imports this package too, and needs no jax.
    if name in __all__:
        from dino_jax.weights import state_dict, torch_names

        return getattr(state_dict if name == "read_state_dict" else torch_names, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
