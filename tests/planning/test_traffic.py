"""Laws of counting what a compiled program moves, on programs of a few lines."""

import pytest

from jax_switchgen.planning.hlo import read_program
from jax_switchgen.planning.traffic import traffic

HBM = "{1,0:T(8,128)(2,1)}"
CHIP = "{1,0:T(8,128)(2,1)S(1)}"
MATRIX = f"bf16[256,512]{HBM}"
SIZE = 256 * 512 * 2


def moved(body: str, *computations: str, loops: int = 1):
    """The traffic of an entry with the parameters %a and %b, 256 x 512 in HBM."""
    entry = "\n".join(
        [
            "ENTRY %main (a: bf16[256,512], b: bf16[256,512]) -> bf16[256,512] {",
            f"  %a = {MATRIX} parameter(0)",
            f"  %b = {MATRIX} parameter(1)",
            *(f"  {line}" for line in body.strip().splitlines()),
            "}",
        ]
    )
    return traffic(read_program("\n".join([*computations, entry])), loops=loops)


def test_an_operation_reads_its_operands_and_writes_its_result():
    assert moved(f"ROOT %c = {MATRIX} add(%a, %b)").hbm_bytes == 3 * SIZE


def test_what_lies_on_the_chip_is_free():
    found = moved(
        f"""
        %s = (bf16[256,512]{CHIP}, {MATRIX}, u32[]{{:S(2)}}) copy-start(%a)
        %d = bf16[256,512]{CHIP} copy-done(%s)
        ROOT %c = bf16[256,512]{CHIP} add(%d, %d)
        """.replace("        ", "")
    )
    assert found.hbm_bytes == SIZE  # the one copy onto the chip


def test_dimensions_fill_whole_tiles():
    """Four rows of 64 take eight of 128."""
    found = moved(
        "%t = bf16[4,64]{1,0:T(8,128)(2,1)} copy(%t2)\n"
        "%t2 = bf16[4,64]{1,0:T(8,128)(2,1)} constant(0)\n"
        f"ROOT %c = {MATRIX} add(%a, %b)"
    )
    # The constant is named after its use, as in no real program: both count 2048.
    assert found.hbm_bytes == 3 * SIZE + 2 * 8 * 128 * 2


def test_a_slice_moves_what_it_takes():
    found = moved(
        "%z = s32[] constant(0)\n"
        f"ROOT %c = bf16[8,512]{HBM} dynamic-slice(%a, %z, %z), "
        "dynamic_slice_sizes={8,512}"
    )
    assert found.hbm_bytes == 2 * 8 * 512 * 2


FUSED_SLICE = f"""%fused (p: bf16[256,512], q: s32[]) -> bf16[8,512] {{
  %p = {MATRIX} parameter(0)
  %q = s32[] parameter(1)
  ROOT %r = bf16[8,512]{HBM} dynamic-slice(%p, %q, %q), dynamic_slice_sizes={{8,512}}
}}"""

FUSED_UPDATE = f"""%fused (p: bf16[256,512], u: bf16[8,512], q: s32[]) -> x {{
  %p = {MATRIX} parameter(0)
  %u = bf16[8,512]{CHIP} parameter(1)
  %q = s32[] parameter(2)
  ROOT %r = {MATRIX} dynamic-update-slice(%p, %u, %q, %q)
}}"""


def test_a_fusion_reads_slices_and_updates_in_place():
    row = 8 * 512 * 2
    found = moved(
        "%z = s32[] constant(0)\n"
        f"ROOT %c = bf16[8,512]{HBM} fusion(%a, %z), kind=kLoop, calls=%fused",
        FUSED_SLICE,
    )
    assert found.hbm_bytes == 2 * row
    found = moved(
        "%z = s32[] constant(0)\n"
        f"%u = bf16[8,512]{CHIP} constant(0)\n"
        f"ROOT %c = {MATRIX} fusion(%a, %u, %z), kind=kLoop, calls=%fused",
        FUSED_UPDATE,
    )
    assert found.hbm_bytes == row  # written; the update comes from the chip


def loop(condition: str) -> tuple[str, ...]:
    state = f"(s32[], {MATRIX})"
    return (
        f"""%body (s: {state}) -> {state} {{
  %s = {state} parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = {MATRIX} get-tuple-element(%s), index=1
  %y = {MATRIX} add(%x, %x)
  ROOT %t = {state} tuple(%i, %y)
}}""",
        f"""%condition (s: {state}) -> pred[] {{
  %s = {state} parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[]{{:T(128)}} constant(7)
  {condition}
}}""",
    )


@pytest.mark.parametrize(
    ("condition", "runs"),
    [
        ("ROOT %c = pred[] compare(%i, %n), direction=LT", 7),
        (
            "%c = pred[] compare(%i, %n), direction=LT\n  ROOT %d = pred[] and(%c, %c)",
            50,
        ),
    ],
)
def test_a_loop_counts_as_often_as_it_runs(condition, runs):
    """As often as its condition says, or, if more than its count decides, as often as
    the caller says."""
    found = moved(
        "%z = s32[] constant(0)\n"
        f"%t = (s32[], {MATRIX}) tuple(%z, %a)\n"
        f"%w = (s32[], {MATRIX}) while(%t), condition=%condition, body=%body\n"
        f"ROOT %c = {MATRIX} get-tuple-element(%w), index=1",
        *loop(condition),
        loops=50,
    )
    # The matrix is read twice and written once; its count is on the chip.
    assert found.hbm_bytes == runs * 3 * SIZE


def test_products_and_collectives_are_counted():
    found = moved(
        f"%c = {MATRIX} convolution(%a, %b), dim_labels=bf_oi->bf\n"
        f"ROOT %r = {MATRIX} all-reduce(%c), replica_groups={{{{0,1}}}}, to_apply=%sum"
    )
    assert found.flops == 2 * 256 * 512 * 512
    assert found.collective_bytes == {"all-reduce": SIZE}
    assert found.collectives == 1


PIECE, WHOLE, COUNT = MATRIX, f"bf16[1024,512]{HBM}", "u32[]{:S(2)}"
BUFFERS = f"{PIECE}, {WHOLE}, {COUNT}"
HANDED_ON = f"({MATRIX}, {PIECE}, {WHOLE}, {WHOLE}, {COUNT})"
STARTED = f"""%start (p: x) -> x {{
  %p = {PIECE} parameter(0)
  %g = {WHOLE} all-gather(%p), dimensions={{0}}
  ROOT %r = ({BUFFERS}) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}}"""
BESIDE = f"""%beside (p: x, w: x, n: x, m: x) -> x {{
  %p = {PIECE} parameter(0)
  %w = {WHOLE} parameter(1)
  %n = {COUNT} parameter(2)
  %m = {MATRIX} parameter(3)
  %y = {MATRIX} add(%m, %m)
  %g = {WHOLE} all-gather(%p), dimensions={{0}}
  ROOT %r = {HANDED_ON} tuple(%y, %p, %w, %g, %n)
}}"""
AWAITED = f"""%await (p: x, w: x, n: x) -> x {{
  %p = {PIECE} parameter(0)
  %w = {WHOLE} parameter(1)
  %n = {COUNT} parameter(2)
  %g = {WHOLE} all-gather(%p), dimensions={{0}}
  ROOT %r = {WHOLE} custom-call(%g), custom_call_target="AsyncCollectiveDone"
}}"""


def test_a_collective_beside_other_work_counts_once():
    """Its buffers pass through every fusion between its start and its end, and each of
    these names it again."""
    found = moved(
        f"""
        %s = ({BUFFERS}) fusion(%a), calls=%start
        %p = {PIECE} get-tuple-element(%s), index=0
        %w = {WHOLE} get-tuple-element(%s), index=1
        %n = {COUNT} get-tuple-element(%s), index=2
        %f = {HANDED_ON} fusion(%p, %w, %n, %b), calls=%beside
        ROOT %d = {WHOLE} fusion(%p, %w, %n), calls=%await
        """.replace("        ", ""),
        STARTED,
        BESIDE,
        AWAITED,
    )
    gathered = SIZE + 4 * SIZE  # the piece read, the whole written
    assert found.hbm_bytes == gathered + 2 * SIZE  # and %b read, %y written
    assert found.collective_bytes == {"all-gather": 4 * SIZE}
    assert found.collectives == 1


def test_a_collective_inside_a_fusion_counts():
    found = moved(
        f"ROOT %r = bf16[64,512]{HBM} fusion(%a), kind=kCustom, calls=%reduce_scatter",
        f"""%reduce_scatter (p: x) -> x {{
  %p = {MATRIX} parameter(0)
  %g = {MATRIX} all-reduce(%p), to_apply=%sum
  %z = s32[] constant(0)
  ROOT %s = bf16[64,512]{HBM} dynamic-slice(%g, %z, %z), dynamic_slice_sizes={{64,512}}
}}""",
    )
    assert found.hbm_bytes == SIZE + SIZE / 4
    assert found.collective_bytes == {"all-reduce": SIZE}
