"""Flow encode-cases."""

from __future__ import annotations

from prefect import flow
from pydantic import TypeAdapter

from tasks.editing.settings import ModelConfig
from tasks.encode_cases import EncodeCases, EncodeConfig
from tasks.prefect_stage import ArtifactRef, RunOptions, run_stage, version_arguments


@flow(name="encode-cases", flow_run_name="encode-cases")
def encode_cases(
    realpref: str = "realpref@latest", config: EncodeConfig = EncodeConfig(), options: RunOptions = RunOptions()
) -> ArtifactRef:
    """Encode source and instruction of every case to train on, once."""
    store = options.open_store()
    return run_stage(EncodeCases(store, config, store.resolve(realpref)), options)


if __name__ == "__main__":
    parts = {"model": TypeAdapter(ModelConfig)}
    (realpref,), config, options = version_arguments(__doc__, EncodeConfig(), "realpref", parts=parts)
    encode_cases(realpref, config, options)
