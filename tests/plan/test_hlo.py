"""Reading the text of a compiled program, in the notation of TPUs and of CPUs."""

import jax
import jax.numpy as jnp
import pytest

from dino_jax.plan.hlo import Array, parse_arrays, parse_instruction, parse_module

COPY = (
    "  %copy-start.5 = (bf16[512,37]{1,0:T(8,128)(2,1)}, bf16[512,37]{1,0:T(8,128)(2,1)S(1)}, "
    "u32[]{:S(2)}) copy-start(%fusion.1, /*index=1*/%p)"
)


def test_an_instruction_is_taken_apart():
    line = "  ROOT %all.2 = f32[4,8]{1,0:T(8,128)} fusion(%a.1, %b-2), kind=kLoop, calls=%inner.3"
    read = parse_instruction(line)
    assert (read.name, read.opcode, read.is_root) == ("all.2", "fusion", True)
    assert read.operands == ("a.1", "b-2")
    assert read.arrays == (Array("f32", (4, 8)),)
    assert read.called("calls") == ["inner.3"]
    assert (read.attribute("kind"), read.attribute("none")) == ("kLoop", None)


def test_a_tuple_keeps_the_memory_of_its_arrays():
    read = parse_instruction(COPY)
    assert read.operands == ("fusion.1", "p")
    assert [array.space for array in read.arrays] == [0, 1, 2]
    assert [array.bytes for array in read.arrays] == [512 * 37 * 2, 512 * 37 * 2, 4]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("pred[3]", 3), ("s4[8]", 4), ("u8[2,5]{1,0}", 10), ("f8e4m3fn[4]", 4)),
        *(("c64[2]", 16), ("f32[]", 4), ("f32[0,7]", 0), ("token[]", 0)),
    ],
)
def test_an_array_has_its_bytes(text, size):
    assert parse_arrays(text)[0].bytes == size


def test_lines_that_are_no_instructions_are_none():
    assert parse_instruction("}") is None
    assert parse_instruction("  // a comment") is None


def test_a_program_of_this_machine_is_read():
    compiled = jax.jit(lambda x: jnp.sin(x) @ x.T).lower(jnp.ones((4, 3))).compile()
    module = parse_module(compiled.as_text())
    entry = module.computations[module.entry]
    assert entry.root.arrays == (Array("f32", (4, 4)),)
    assert [x.arguments for x in entry.values() if x.opcode == "parameter"] == ["0"]


def test_what_is_no_program_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        parse_module("HloModule empty")
