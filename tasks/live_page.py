"""What a stage shows while it works, in the Prefect UI: a page and a bar, brought up to date in place."""

from __future__ import annotations

import logging
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.events import emit_event

logger = logging.getLogger(__name__)
ALARM_EVENT = "hp-edit.training.alarm"
"""Sent once by a run whose reward runs away from its second judge; an automation can notify people of it."""


class LivePage:
    """One page and one bar of a run; the first call makes them."""

    def __init__(self, key: str) -> None:
        """Under a key of the artifacts page, such as adapter-training."""
        self.key = key
        self._page: UUID | None = None
        self._bar: UUID | None = None
        self._alarmed = False

    def __call__(self, page: str, percent: float, alarm: str = "") -> None:
        """Show them. What is shown is for people: where the server is gone, the work goes on."""
        try:
            self._show(page, percent)
            if alarm and not self._alarmed:
                self._alarmed = True
                resource = {"prefect.resource.id": f"hp-edit.{self.key}", "prefect.resource.name": self.key}
                emit_event(event=ALARM_EVENT, resource=resource, payload={"says": alarm})
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
