"""Is every host of a job as it should be? One line for each; refuses with the reason.

JAX computes on the CPU in silence where it finds no TPU; hosts of one job with other
versions fail late, or differ; a folder that is not shared loses a host's output.
"""

import hashlib
import importlib.metadata
import json
import platform
import secrets
import sys
from collections.abc import Callable

import hosts
from absl import flags
from command_line import ROOT

PLATFORM = flags.DEFINE_enum(
    "platform", None, ["tpu", "gpu", "cpu"], "What must compute; else it is refused."
)
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "orbax-checkpoint", "transformers")


def check(
    host: hosts.Host, folder: str | None, mesh: Callable[[], object] = lambda: None
) -> None:
    """All processes of a job call this before they load anything.

    Args:
      folder: that all must be able to write to, or None; it need not exist.
      mesh: raises ValueError if the devices do not suffice.

    Raises:
      hosts.Refused: a host is not as it should be; one line that names each.
    """
    devices, reasons = _devices()
    reasons += _reasons(mesh)
    found = versions()
    everyone = [json.loads(v) for v in host.exchange("versions", json.dumps(found))]
    reasons += [
        f"{name} {found[name]}, on host 0 it is {version}"
        for name, version in everyone[0].items()
        if found[name] != version
    ]
    if folder is not None:
        reasons += _unshared(host, folder)
    refusals = host.exchange("refused", "; ".join(reasons))
    shown = f"{devices} · jax {found['jax']} · python {found['python']}"
    if folder is not None and not reasons:
        shown += f" · {folder} is writable"
    print(f"{host.name}: {'refused' if reasons else 'ok'} · {shown}", file=sys.stderr)
    lines = [f"host {i}: {reason}" for i, reason in enumerate(refusals) if reason]
    if lines:
        raise hosts.Refused(f"preflight refuses {'; '.join(lines)}")


def check_job(
    host: hosts.Host, folder: str | None, mesh: Callable[[], object] = lambda: None
) -> None:
    """`check`, unless the process is alone and no platform is expected of it."""
    if host.count > 1 or PLATFORM.value is not None:
        check(host, folder, mesh)


def versions() -> dict[str, str]:
    """What must be equal on all hosts, by name."""
    found = {"python": platform.python_version(), "code": _code()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def _code() -> str:
    """A hash of this repository's programs."""
    digest = hashlib.blake2b(digest_size=6)
    for name in ("jax_switchgen", "launch", "configs"):
        for path in sorted((ROOT / name).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _devices() -> tuple[str, list[str]]:
    """What computes here, in words, and why it must not."""
    import jax

    expected = PLATFORM.value
    try:
        devices = jax.local_devices()
    except RuntimeError as error:  # JAX_PLATFORMS names one that cannot be had
        return "no devices", [str(error).splitlines()[0]]
    kind = devices[0].platform
    shown = f"{len(devices)} x {devices[0].device_kind} ({kind})"
    if expected is None or kind == expected:
        return shown, []
    return shown, [
        f"the backend is {kind}, --platform={expected} is expected; is "
        f"jax[{'cuda12' if expected == 'gpu' else expected}] installed, and does no "
        "other process hold the device?"
    ]


def _reasons(mesh: Callable[[], object]) -> list[str]:
    try:
        mesh()
    except ValueError as error:
        return [str(error)]
    return []


def _unshared(host: hosts.Host, folder: str) -> list[str]:
    """Why the folder is not one that all hosts write to."""
    from jax_switchgen.generation.storage import is_remote, job_path

    # Drawn by host 0, so that no name was ever looked up before.
    token = host.exchange("token", secrets.token_hex(4))[0]
    names = [f".preflight-{token}-{index}" for index in range(host.count)]
    reasons: list[str] = []
    mine = None
    try:
        path = job_path(folder)
        if not is_remote(path):
            # The job will make what is missing.
            path = path.absolute()
            while not path.exists():
                path = path.parent
        (path / names[host.index]).write_text(token)
        mine = path / names[host.index]
    except (OSError, ValueError) as error:
        reasons.append(f"{folder} is not writable ({error})")
    written = host.exchange("written", "" if reasons else "yes")
    for index, name in enumerate(names):
        if not reasons and written[index] and not (path / name).exists():
            reasons.append(
                f"{folder} is not the folder that host {index} sees; name one that is "
                "mounted on all hosts, or gs://BUCKET/…"
            )
    host.exchange("seen", "")
    if mine is not None:
        mine.unlink()
    return reasons
