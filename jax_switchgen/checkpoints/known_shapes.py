"""Architectures of hub models that the configs name, for plans without a network.

Each folder of `shapes/` holds what a published config.json says of sizes; nothing else
of the model is there, and loading one always takes the file that lies beside its
weights.
"""

import re
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from jax_switchgen.checkpoints.hf_config import read_config
from jax_switchgen.checkpoints.resolve import HUB_NAME, resolve_checkpoint
from jax_switchgen.models.config import ModelConfig

_SHAPES = Path(__file__).parent / "shapes"
# Names on the hub, and the folder that has their sizes. Tulu 3 added 8 tokens to
# Llama's; yuru_qw_oasst1 is a finetuned Qwen2.5-7B, taken to have its sizes.
_FOLDERS = {
    r"meta-llama/(Llama|Meta-Llama)-3\.1-8B(-Instruct)?": "llama-3.1-8b",
    r"allenai/Llama-3\.1-Tulu-3(\.1)?-8B(-SFT|-DPO)?": "tulu-3-8b",
    r"Qwen/Qwen2\.5-0\.5B(-Instruct)?": "qwen2.5-0.5b",
    r"Qwen/Qwen2\.5-1\.5B(-Instruct)?": "qwen2.5-1.5b",
    r"Qwen/Qwen2\.5-7B(-Instruct)?": "qwen2.5-7b",
    r"bunsenfeng/yuru_qw_oasst1": "qwen2.5-7b",
    r"allenai/OLMo-2-1124-7B(-SFT|-DPO|-Instruct)?": "olmo-2-7b",
}


def model_shape(path: str, progress: Callable[[str], None]) -> ModelConfig:
    """The architecture of what a config calls `path`, without its weights.

    A hub name's config.json is taken from the local cache, else from the sizes that are
    known here, else from the hub.

    Raises:
      ValueError: it is none of these, or there is no network; one line.
    """
    is_on_hub = HUB_NAME.fullmatch(path) and not Path(path).expanduser().exists()
    if not is_on_hub:
        return read_config(resolve_checkpoint(path, progress))
    cached = try_to_load_from_cache(path, "config.json")
    if isinstance(cached, str):
        return read_config(Path(cached).parent)
    for pattern, folder in _FOLDERS.items():
        if re.fullmatch(pattern, path):
            return read_config(_SHAPES / folder)
    progress(f"looking up {path} on the hub")
    try:
        return read_config(Path(hf_hub_download(path, "config.json")).parent)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"{path}: its sizes are not known here, and the hub gives no config.json "
            f"({type(error).__name__}); set the path to a folder that holds that file"
        ) from None
