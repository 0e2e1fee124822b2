"""Work of compiled programs against counts made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.devices.sharding import batch_sharding, make_mesh, replicated
from dino_jax.plan.cost import Collective, Cost, module_cost
from dino_jax.plan.hlo import parse_module


def compiled_cost(function, *arguments, devices=1, **options):
    compiled = jax.jit(function, **options).lower(*arguments).compile()
    return module_cost(parse_module(compiled.as_text()), devices)


def text_cost(entry: str, others: str = "", devices: int = 8) -> Cost:
    text = f"HloModule m\n{others}\nENTRY %main (p: f32[]) -> f32[] {{\n{entry}\n}}\n"
    return module_cost(parse_module(text), devices)


def test_a_product_has_two_flops_per_multiplication():
    cost = compiled_cost(lambda a, b: a @ b, jnp.ones((5, 7)), jnp.ones((7, 11)))
    assert cost.flops == 2 * 5 * 7 * 11


def test_the_body_of_a_scan_counts_as_often_as_it_runs():
    weights = jnp.ones((9, 6, 6))

    def chain(x):
        return jax.lax.scan(lambda carry, w: (jnp.tanh(carry @ w), None), x, weights)[0]

    assert compiled_cost(chain, jnp.ones((4, 6))).flops == 9 * (2 * 4 * 6 * 6)


def test_scans_in_scans_multiply():
    weights = jnp.ones((5, 3, 6, 6))

    def inner(carry, w):
        return jnp.tanh(carry @ w), None

    def outer(carry, ws):
        return jax.lax.scan(inner, carry, ws)[0], None

    cost = compiled_cost(lambda x: jax.lax.scan(outer, x, weights)[0], jnp.ones((4, 6)))
    assert cost.flops == 5 * 3 * (2 * 4 * 6 * 6)


def test_a_convolution_counts_what_meets_the_image_only():
    def blur(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (2, 1), "SAME")

    image, kernel = np.ones((2, 3, 8, 5), np.float32), np.ones((4, 3, 3, 3), np.float32)
    # Rows 0-2, 2-4, 4-6, 6-8 of which row 8 is padding; columns -1-1, …, 3-5.
    rows, columns = 3 + 3 + 3 + 2, 2 + 3 + 3 + 3 + 2
    assert compiled_cost(blur, image, kernel).flops == 2 * (2 * 4 * 3 * rows * columns)


# As a TPU computes einsum("bqhd,bkhd->bhqk") for B = 6, H = 2, 5 tokens and 4 features.
ATTENTION = """
  %q = bf16[6,5,2,4]{3,1,2,0} parameter(0)
  %k = bf16[6,5,2,4]{3,1,2,0} parameter(1)
  ROOT %s = bf16[6,2,5,5]{2,3,1,0} convolution(%q, %k), WINDOW, dim_labels=0b1f_0o1i->01bf
""".replace("WINDOW", "window={size=6x2 stride=5x1 lhs_dilate=6x2}")


def test_a_batched_product_of_a_tpu_counts_each_sample_once():
    assert text_cost(ATTENTION).flops == 2 * 6 * 2 * 5 * 5 * 4


LOOP = """
%body (s: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %s = (s32[], f32[4,4]{1,0}) parameter(0)
  %x = f32[4,4]{1,0} get-tuple-element(%s), index=1
  %y = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %z = f32[4,4]{1,0} all-reduce(%y), replica_groups=[2,4]<=[8], to_apply=%add
  %g = f32[4,8]{1,0} all-gather(%z), replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={1}
  ROOT %t = (s32[], f32[4,4]{1,0}) tuple(%s, %z)
}
%condition (s.1: (s32[], f32[4,4])) -> pred[] {
  %s.1 = (s32[], f32[4,4]{1,0}) parameter(0)
  %limit = s32[] constant(12)
  %count = s32[] get-tuple-element(%s.1), index=0
  ROOT %lt = pred[] compare(%count, %limit), direction=LT
}
"""
WHILE = "  ROOT %w = (s32[], f32[4,4]{1,0}) while(%p), condition=%condition, body=%body"


def test_a_loop_of_a_tpu_has_the_length_of_its_condition():
    cost = text_cost(WHILE, LOOP)
    assert cost.flops == 12 * 2 * 4**3
    # Ring of four: each device sends 2 * 3/4 of 64 bytes; of the gathered 128 bytes it has half.
    assert cost.collectives["all-reduce"] == Collective(12, 12 * 64, 12 * 2 * 0.75 * 64)
    assert cost.collectives["all-gather"] == Collective(12, 12 * 128, 12 * 0.5 * 128)
    assert cost.endless == 0


def test_what_the_compiler_says_about_a_loop_goes_first():
    known = WHILE + ', backend_config={"known_trip_count":{"n":"3"}}'
    assert text_cost(known, LOOP).flops == 3 * 2 * 4**3


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    cost = text_cost(WHILE, LOOP.replace("direction=LT", "direction=NE"))
    assert (cost.flops, cost.endless) == (2 * 4**3, 1)


@pytest.mark.parametrize(
    ("groups", "members"),
    [
        ("{}", 8),
        ("{{0,1,2},{3,4,5}}", 3),
        ("[4,2]<=[8]", 2),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("mesh['a'=4,'b'=2] {'b'}", 2),
        ("mesh['a'=4,'b'=2] {'a','b'}", 8),
        ("mesh['a'=8] {'a':(1)4}", 4),
    ],
)
def test_the_devices_of_a_collective_are_read_in_every_notation(groups, members):
    line = "  ROOT %r = f32[6]{0} reduce-scatter(%p), replica_groups=GROUPS, dimensions={0}"
    entry = "  %p = f32[24]{0} parameter(0)\n" + line.replace("GROUPS", groups)
    found = text_cost(entry).collectives["reduce-scatter"]
    assert found.bytes == 96
    assert found.sent == pytest.approx((members - 1) / members * 96)


def test_an_asynchronous_collective_counts_once():
    entry = """
  %p = bf16[8]{0} parameter(0)
  %s = (bf16[8]{0}, bf16[64]{0}) all-gather-start(%p), replica_groups={}, dimensions={0}
  ROOT %d = bf16[64]{0} all-gather-done(%s)
"""
    assert text_cost(entry).collectives == {"all-gather": Collective(1, 128, 7 / 8 * 128)}


def test_a_collective_that_goes_on_beside_other_work_counts_once():
    others = "".join(
        f"""
%{name} (a: f32[4]) -> f32[8] {{
  %a = f32[4]{{0}} parameter(0)
  ROOT %g = f32[8]{{0}} all-gather(%a), channel_id=7, replica_groups=[1,2]<=[2], dimensions={{0}}
}}
"""
        for name in ("fused.1", "async_collective_fusion.2", "fused.3")
    )
    entry = """
  %p = f32[4]{0} parameter(0)
  %async-collective-start = f32[8]{0} fusion(%p), kind=kCustom, calls=%fused.1
  %fusion.2 = f32[8]{0} fusion(%p), kind=kOutput, calls=%async_collective_fusion.2
  ROOT %async-collective-done = f32[8]{0} fusion(%p), kind=kCustom, calls=%fused.3
"""
    assert text_cost(entry, others).collectives == {"all-gather": Collective(1, 32, 16)}


def test_an_all_reduce_of_which_only_a_part_is_kept_is_a_reduce_scatter():
    others = """
%all-reduce-scatter.3 (a: f32[8]) -> f32[4] {
  %a = f32[8]{0} parameter(0)
  %r = f32[8]{0} all-reduce(%a), channel_id=7, replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %s = f32[4]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={4}
}
"""
    entry = """
  %p = f32[8]{0} parameter(0)
  ROOT %fusion.1 = f32[4]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.3
"""
    assert text_cost(entry, others).collectives == {"reduce-scatter": Collective(1, 32, 16)}


def test_of_a_conditional_the_cheapest_branch_counts():
    others = """
%much (a: f32[9]) -> f32[9] {
  %a = f32[9]{0} parameter(0)
  ROOT %b = f32[9]{0} add(%a, %a)
}
%little (c: f32[9]) -> f32[2] {
  %c = f32[9]{0} parameter(0)
  ROOT %d = f32[2]{0} iota(), iota_dimension=0
}
"""
    entry = "  ROOT %x = f32[9]{0} conditional(%i, %p, %p), branch_computations={%much, %little}"
    assert text_cost(entry, others).bytes == 8


def test_memory_on_the_chip_is_no_traffic():
    entry = """
  %p = f32[100]{0} parameter(0)
  %s = (f32[100]{0}, f32[100]{0:S(1)}, u32[]{:S(2)}) copy-start(%p)
  %d = f32[100]{0:S(1)} copy-done(%s)
  %e = f32[100]{0:S(1)} add(%d, %d)
  ROOT %r = f32[100]{0} negate(%e)
"""
    assert text_cost(entry).bytes == 400 + 400


SLICES = """
%inner (a: f32[12,50], i: s32[], b: f32[12,50]) -> f32[12,50] {
  %a = f32[12,50]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[12,50]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,50]{1,0} dynamic-slice(%a, %i, %zero), dynamic_slice_sizes={1,50}
  %twice = f32[1,50]{1,0} add(%row, %row)
  ROOT %u = f32[12,50]{1,0} dynamic-update-slice(%b, %twice, %i, %zero)
}
"""


def test_a_fusion_that_moves_a_row_of_a_stack_moves_no_more():
    entry = """
  %p = f32[12,50]{1,0} parameter(0)
  %n = s32[]{:S(1)} parameter(1)
  ROOT %f = f32[12,50]{1,0} fusion(%p, %n, %p), kind=kLoop, calls=%inner
"""
    assert text_cost(entry, SLICES).bytes == 200 + 200


def test_the_cycles_of_the_compiler_are_added_up_with_the_loops():
    config = 'backend_config={"window_config":{"estimated_cycles":"1000"}}'
    body = LOOP.replace("rhs_contracting_dims={0}", "rhs_contracting_dims={0}, " + config)
    assert text_cost(WHILE, body).cycles == 12_000


def test_custom_kernels_are_counted_by_what_they_state():
    entry = '  ROOT %k = f32[8]{0} custom-call(%p), custom_call_target="tpu_custom_call"'
    stated = ', backend_config={"custom_call_config":{"cost_estimate":{"flops":"640","x":"0"}}}'
    assert (text_cost(entry).kernels, text_cost(entry).flops) == (1, 0)
    assert (text_cost(entry + stated).kernels, text_cost(entry + stated).flops) == (1, 640)


def test_the_mean_over_a_sharded_batch_is_one_all_reduce():
    mesh = make_mesh(1)
    batch = jax.ShapeDtypeStruct((8, 32), jnp.float32, sharding=batch_sharding(mesh))
    cost = compiled_cost(lambda x: x.mean(axis=0), batch, devices=4, out_shardings=replicated(mesh))
    assert cost.collectives == {"all-reduce": Collective(1, 128, 2 * 3 / 4 * 128)}


def test_what_a_device_sends_to_other_slices_is_counted_by_itself():
    """As libtpu 0.0.42 writes the sum over two slices; the receiving side moves no more."""
    megascale = (
        "is_host_transfer=true, "
        'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}'
    )
    cost = text_cost(
        f"""
  %x = f32[1,8,128]{{2,1,0}} parameter(0)
  %token = token[] after-all()
  %send = (f32[1,8,128]{{2,1,0}}, u32[], token[]) send(%x, %token), channel_id=2, {megascale}
  %recv = (f32[1,8,128]{{2,1,0}}, u32[], token[]) recv(%token), channel_id=1, {megascale}
  %sent = token[] send-done(%send), channel_id=2, {megascale}
  ROOT %done = (f32[1,8,128]{{2,1,0}}, token[]) recv-done(%recv), channel_id=1, {megascale}
"""
    )
    assert cost.collectives == {"between-slices": Collective(1, 4096, 4096)}
    assert cost.bytes == 0
