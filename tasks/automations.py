"""Automations that belong to a deployment: `python -m tasks.automations --notify slack-webhook/ops`.

Run it after `prefect deploy`, and again whenever something here changed: automations of the same name are brought up to
date. One that somebody paused stays paused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from tasks.live_page import ALARM_EVENT
from tasks.prefect_stage import REJECTED_EVENT

SILENCE = timedelta(seconds=270)
"""How long a run may say nothing before it counts as dead: three heartbeats of a deployment, as `prefect.yaml` sets
them, and more than the one that Prefect sends every 180 seconds without being told."""
NIGHTS = timedelta(hours=26)
"""A night and a long rebuild."""
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = frozenset(f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Crashed", "Cancelled"))
STOPS = frozenset(f"prefect.flow-run.{name}" for name in ("Paused", "Suspended"))
"""A run that waits for somebody need not have a process."""
ANY_RUN = {"prefect.resource.id": "prefect.flow-run.*"}
NIGHTLY = {"prefect.resource.role": "flow", "prefect.resource.name": "nightly-rebuild"}
RUN = "{% if flow_run %}{{ (flow_run | ui_url) or flow_run.id }}{% endif %}"
"""The run's address, where the server knows its own (`PREFECT_UI_URL`)."""


def crash_silent_runs(silence: timedelta = SILENCE) -> Automation:
    """A run whose worker died says Running for ever; this marks it, and the runs of its stages, as crashed.

    The server refuses it for a run that has ended, and a run that was alive after all ends as it would have.
    """
    return Automation(
        name="hp-edit: crash silent runs",
        description="A run that sends no heartbeat has lost its worker.",
        trigger=EventTrigger(
            match=ANY_RUN,
            for_each={"prefect.resource.id"},
            after={HEARTBEAT},
            expect={HEARTBEAT, *ENDS, *STOPS},
            posture=Posture.Proactive,
            within=silence,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat: its worker seems to be gone.")],
    )


def notify_of_rejection(block: UUID) -> Automation:
    """Somebody must look at a version that broke its limits; until then everything goes on with the one before."""
    version = "{{ event.payload.version }}"
    return _notify(
        block,
        "a rejected version",
        "A version broke the limits of its stage.",
        EventTrigger(expect={REJECTED_EVENT}, posture=Posture.Reactive),
        f"{version} is rejected",
        f"{{{{ event.payload.reasons | join('; ') }}}}.\nIt is kept, and latest stays what it was. "
        f"Look at it: python -m storage show {version}\n{RUN}",
    )


def notify_of_alarm(block: UUID) -> Automation:
    """Training pleases the judge that it is rewarded by, and another judge sees none of it."""
    return _notify(
        block,
        "a training's alarm",
        "A reward runs away from the second judge.",
        EventTrigger(expect={ALARM_EVENT}, posture=Posture.Reactive),
        "the reward and the second judge come apart",
        f"{{{{ event.payload.says }}}}\n{RUN}",
    )


def notify_of_bad_night(block: UUID) -> Automation:
    """A night that ended badly, whatever the reason."""
    return _notify(
        block,
        "a bad night",
        "A nightly rebuild failed or crashed.",
        EventTrigger(
            match=ANY_RUN,
            match_related=NIGHTLY,
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            posture=Posture.Reactive,
        ),
        "the nightly rebuild {{ flow_run.state.name | lower }}",
        f"{{{{ flow_run.name }}}}: {{{{ flow_run.state.message }}}}\n{RUN}",
    )


def notify_of_missing_night(block: UUID, within: timedelta = NIGHTS) -> Automation:
    """A night that nobody planned, or that no worker took, fails nowhere; only its absence tells."""
    return _notify(
        block,
        "a missing night",
        "No nightly rebuild has ended well for more than a day.",
        EventTrigger(
            match=ANY_RUN,
            match_related=NIGHTLY,
            expect={"prefect.flow-run.Completed"},
            posture=Posture.Proactive,
            within=within,
        ),
        "no nightly rebuild",
        f"None has ended well for {within}. Is one planned, and is there a worker? "
        "prefect flow-run ls --state SCHEDULED; prefect work-pool inspect hp-edit",
    )


def _notify(block: UUID, what: str, description: str, trigger: EventTrigger, subject: str, body: str) -> Automation:
    """An automation that sends one message."""
    message = SendNotification(block_document_id=block, subject=f"HP-Edit: {subject}", body=body)
    return Automation(name=f"hp-edit: notify of {what}", description=description, trigger=trigger, actions=[message])


def notification_block(name: str) -> UUID:
    """The block document of a name such as `slack-webhook/ops`.

    Raises: ValueError where there is none, or where it cannot notify.
    """
    block_type, _, document = name.partition("/")
    with get_client(sync_client=True) as client:
        try:
            block = client.read_block_document_by_name(document, block_type)
        except ObjectNotFound:
            known = sorted(
                f"{one.block_type.slug}/{one.name}"
                for one in client.read_block_documents()
                if one.block_type and one.block_schema and "notify" in one.block_schema.capabilities
            )
            raise ValueError(f"no block {name!r}; those that notify: {', '.join(known) or 'none'}") from None
    if not block.block_schema or "notify" not in block.block_schema.capabilities:
        raise ValueError(f"block {name!r} cannot notify")
    return block.id


def put(automation: Automation) -> str:
    """Create an automation, or bring the one of its name up to date. Returns: what was done."""
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(automation.name)
        if not found:
            automation.create()
            return "created"
        kept, *doubles = sorted(found, key=lambda one: str(one.id))
        for double in doubles:
            client.delete_automation(double.id)
    wanted = automation.model_copy(update={"id": kept.id, "enabled": all(one.enabled for one in found)})
    if wanted.model_dump(exclude={"id"}) == kept.model_dump(exclude={"id"}):
        return "unchanged"
    wanted.update()
    return "updated"


def main(words: Sequence[str] | None = None) -> int:
    """The command line. Returns: 0, or 2 for a block that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notify", metavar="BLOCK", help="a notification block, such as slack-webhook/ops")
    parser.add_argument("--silent-seconds", type=float, default=SILENCE.total_seconds(), help="(%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print them, change nothing")
    arguments = parser.parse_args(words)
    automations = [crash_silent_runs(timedelta(seconds=arguments.silent_seconds))]
    if arguments.notify:
        try:
            block = notification_block(arguments.notify)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        told = (notify_of_rejection, notify_of_alarm, notify_of_bad_night, notify_of_missing_night)
        automations += [notify(block) for notify in told]
    for automation in automations:
        if arguments.dry_run:
            print(automation.model_dump_json(indent=1, exclude={"id", "owner_resource"}))
        else:
            print(f"{put(automation):10s}{automation.name}")
    if not arguments.notify:
        print("without --notify BLOCK nobody is told of rejected versions and bad nights: left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
