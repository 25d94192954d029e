"""TPU chips and slices: what a plan is measured against.

Rates are the makers' peak figures per chip (Google Cloud's pages on each generation);
memory is what the compiler says a program may use, which is less than what is built in.
"""

import dataclasses
import re
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation.

    Attributes:
      hbm_gib: usable by programs.
      hbm_rate: bytes per second.
      flop_rate: bfloat16 FLOPs per second.
      ici_rate: bytes per second that a chip can send to its neighbours, all links.
      cores: that a slice's name counts for each chip.
      host: chips of one host, x by y.
      small_hosts: sizes of slices of one host that is smaller or larger than `host`.
    """

    name: str
    hbm_gib: float
    hbm_rate: float
    flop_rate: float
    ici_rate: float
    cores: int
    host: tuple[int, int]
    small_hosts: dict[int, tuple[int, int]]
    settings: dict[str, Any]


_FLAT = {1: (1, 1), 4: (2, 2), 8: (2, 4)}
CHIPS = {
    # Its two cores work as one, as jax uses them.
    "v4": Chip(
        *("v4", 30.75, 1.2e12, 275e12, 300e9, 2, (2, 2), {}),
        {"chip_config_name": "megacore"},
    ),
    "v5e": Chip("v5e", 15.75, 819e9, 197e12, 200e9, 1, (2, 2), _FLAT, {}),
    "v5p": Chip("v5p", 95.74, 2.765e12, 459e12, 600e9, 2, (2, 2), {}, {}),
    "v6e": Chip("v6e", 31.25, 1.64e12, 918e12, 448e9, 1, (2, 2), _FLAT, {}),
}
# The shapes that slices of several hosts come in, by chips.
_CUBES = {4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4)}
_SQUARES = {16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that are rented together.

    Attributes:
      name: as clouds call it: "v4-8" has 8 cores, which are 4 chips.
      shape: chips in each direction.
      chips_per_host: of one host.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    chips_per_host: int

    @property
    def num_chips(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count

    def devices(self) -> list[Any]:
        """Descriptions of its chips, to compile for; host by host.

        Raises:
          ValueError: the TPU compiler is not installed.
        """
        # Imported here: it is jax's experimental interface, and needs the compiler.
        from jax.experimental import topologies

        x, y = self.chip.host
        if self.chips_per_host == self.num_chips:
            x, y = self.shape[:2]
        try:
            found = topologies.get_topology_desc(
                platform="tpu",
                topology_name=f"{self.chip.name}:{'x'.join(map(str, self.shape))}",
                chips_per_host_bounds=[x, y, 1],
                **self.chip.settings,
            )
        except (RuntimeError, ValueError) as error:
            if "TPU support not installed" not in str(error):
                raise
            raise ValueError(
                "plans need the TPU compiler, which runs without a TPU: "
                "pip install -r requirements-plan.txt"
            ) from None
        return sorted(found.devices, key=lambda d: (d.process_index, d.id))


def slice_called(name: str) -> Slice:
    """The slice called "v4-8", "v5e-4", "v5litepod-4", "v5p-8", "v6e-8", …

    Raises:
      ValueError: there is no such slice.
    """
    match = re.fullmatch(r"(v\w+)-(\d+)", name.replace("v5litepod", "v5e"))
    chip = CHIPS.get(match[1]) if match else None
    if match is None or chip is None:
        raise ValueError(
            f"slice {name!r} is not known; write GENERATION-SIZE, as v4-8 or v5e-4; "
            f"generations: {', '.join(CHIPS)}"
        )
    size = int(match[2])
    shapes: dict[int, tuple[int, ...]]
    if chip.cores == 2:
        shapes = {chips * chip.cores: shape for chips, shape in _CUBES.items()}
    else:
        shapes = {**chip.small_hosts, **_SQUARES}
    if size not in shapes:
        raise ValueError(
            f"slice {name!r}: {chip.name} comes in sizes {', '.join(map(str, shapes))}"
        )
    x, y = chip.host
    hosted = size if size in chip.small_hosts else x * y
    return Slice(name, chip, shapes[size], hosted)
