"""What a stage shows while it works, in the Prefect UI: a page and a bar, brought up to date in place."""

from __future__ import annotations

import logging
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

logger = logging.getLogger(__name__)


class LivePage:
    """One page and one bar of a run; the first call makes them."""

    def __init__(self, key: str) -> None:
        """Under a key of the artifacts page, such as adapter-training."""
        self.key = key
        self._page: UUID | None = None
        self._bar: UUID | None = None

    def __call__(self, page: str, percent: float) -> None:
        """Show them. What is shown is for people: where the server is gone, the work goes on."""
        try:
            self._show(page, percent)
        except Exception as error:  # whatever a client raises
            logger.warning("the live page %s could not be shown: %s", self.key, error)

    def _show(self, page: str, percent: float) -> None:
        told = "Done" if percent >= 100 else "In progress"
        if self._page is None or self._bar is None:
            self._page = UUID(str(create_markdown_artifact(page, key=self.key, description=told)))
            self._bar = UUID(str(create_progress_artifact(percent, key=f"{self.key}-progress")))
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self._page, ArtifactUpdate(data=page, description=told))
        update_progress_artifact(self._bar, percent)
