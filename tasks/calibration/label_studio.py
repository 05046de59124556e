"""People's ratings to and from Label Studio.

Its task format: https://labelstud.io/guide/task_format; its JSON-MIN export has one flat object per annotation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.calibration.ratings import BEST, Rating, Skipped, latest_of, read_rating
from tasks.images import data_uri, image_kind

_CONTROL = "score"
_OBJECT = "edited"
_KINDS = ("choices", "rating", "number")

LABELING_CONFIG = f"""<View>
  <Header value="$edit_type"/>
  <Text name="instruction" value="$instruction"/>
  <View style="display: flex; gap: 1em">
    <View style="flex: 1"><Header value="Source"/><Image name="source" value="$source"/></View>
    <View style="flex: 1"><Header value="Edited"/><Image name="{_OBJECT}" value="$edited"/></View>
  </View>
  <Header value="0: failed. 3: basically followed. 5: fully followed, with high quality."/>
  <Choices name="{_CONTROL}" toName="{_OBJECT}" choice="single" showInline="true" required="true">
{chr(10).join(f'    <Choice value="{score}" hotkey="{score}"/>' for score in range(BEST + 1))}
  </Choices>
</View>
"""
"""The labelling interface. Choices, because Label Studio's stars cannot say 0: no star is no rating."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditToLabel:
    """What a person sees."""

    edit_id: str
    edit_type: str
    instruction: str
    source: bytes
    """A PNG or JPEG file."""
    edited: bytes
    """A PNG or JPEG file."""


def write_label_studio(items: Sequence[EditToLabel]) -> str:
    """Tasks to import into a Label Studio project that has `LABELING_CONFIG`; the images are in the file itself.

    Raises: ValueError for an image that is neither PNG nor JPEG.
    """
    return json.dumps([{"data": _data(item)} for item in items])


def write_label_studio_ratings(ratings: Sequence[Rating], items: Sequence[EditToLabel] = ()) -> str:
    """Tasks with annotations, so that ratings made elsewhere go on in Label Studio; `read_label_studio` reads them.

    Label Studio finds the raters by e-mail address and refuses a file with one that it does not know. Its tasks are
    only to be looked at where the edits are among the items.
    """
    data = {item.edit_id: _data(item) for item in items}
    annotations: dict[str, list[dict[str, Any]]] = {}
    for rating in ratings:
        annotations.setdefault(rating.edit_id, []).append(_annotation(rating))
    return json.dumps(
        [
            {"data": data.get(edit_id, {"edit_id": edit_id}), "annotations": of_edit}
            for edit_id, of_edit in annotations.items()
        ]
    )


def read_label_studio(text: str) -> tuple[list[Rating], list[Skipped]]:
    """Read Label Studio's export, JSON or JSON-MIN.

    A rater is their e-mail address where the file has it, otherwise their number. What counts is the control named
    "score"; where none has that name, the only one of type choices, rating or number. Predictions are a model's and
    are ignored. Of two ratings of an edit by one person the later counts.

    Raises: ValueError where the text is not a list of tasks.
    """
    try:
        tasks = json.loads(text.removeprefix("\ufeff"))
    except RecursionError as error:
        raise ValueError("not an export of Label Studio: nested too deeply") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ValueError("not an export of Label Studio: not a list of tasks")
    found: list[tuple[str, Rating]] = []
    skipped: list[Skipped] = []
    for number, task in enumerate(tasks, 1):
        full = isinstance(task.get("data"), dict)
        for taken in _of_task(f"task {number}", task) if full else [_of_flat(f"task {number}", task)]:
            if isinstance(taken, Skipped):
                skipped.append(taken)
            else:
                found.append(taken)
    kept, again = latest_of(found)
    return kept, skipped + again


_Taken = tuple[str, Rating] | Skipped


def _of_task(where: str, task: Mapping[str, Any]) -> Iterator[_Taken]:
    """The ratings of a task of the full export."""
    for number, annotation in enumerate(_list(task.get("annotations")), 1):
        place = f"{where}, annotation {number}"
        if not isinstance(annotation, dict):
            yield Skipped(place, "not an annotation", _short(annotation))
        elif annotation.get("was_cancelled"):
            yield Skipped(place, "cancelled", "")
        else:
            answers = [
                (str(result.get("from_name", "")), result.get("value"))
                for result in _list(annotation.get("result"))
                if isinstance(result, dict) and result.get("type") in _KINDS
            ]
            yield _taken(place, task["data"].get("edit_id"), annotation.get("completed_by"), answers, annotation)


def _of_flat(where: str, task: Mapping[str, Any]) -> _Taken:
    """The rating of an object of the JSON-MIN export, in which a choice is a bare text and others are lists."""
    answers = [
        (name, {"choices": [value]} if isinstance(value, str) else value[0] if isinstance(value, list) else value)
        for name, value in task.items()
        if (name == _CONTROL and isinstance(value, str))
        or (isinstance(value, dict) and _kind(value))
        or (isinstance(value, list) and len(value) == 1 and _kind(value[0]))
    ]
    return _taken(where, task.get("edit_id"), task.get("annotator"), answers, task)


def _taken(where: str, edit_id: Any, rater: Any, answers: list[tuple[str, Any]], times: Mapping[str, Any]) -> _Taken:
    """One annotation's rating, or why there is none.

    Args:
        answers: by control, {"choices": ["4"]}, {"rating": 4} or {"number": 4}.
    """
    ours = [value for name, value in answers if name == _CONTROL] or [value for _, value in answers]
    if len(ours) != 1:
        return Skipped(where, "several ratings in one annotation" if ours else "no rating", _short(ours))
    kind = _kind(ours[0])
    score = ours[0][kind] if kind else None
    if kind == "choices" and isinstance(score, list):
        if len(score) > 1:
            return Skipped(where, "several choices", _short(score))
        score = score[0] if score else None
    if kind == "rating" and score == 0:
        return Skipped(where, "no star: Label Studio's stars cannot say 0", "0")
    told = times.get("updated_at") or times.get("created_at")
    rating = read_rating(where, _name(edit_id), _name(rater), _name(score), told if isinstance(told, str) else "")
    return rating if isinstance(rating, Skipped) else (where, rating)


def _kind(value: Any) -> str:
    """The kind of an answer's value; empty where it is none."""
    return next((kind for kind in _KINDS if kind in value), "") if isinstance(value, dict) else ""


def _name(value: Any) -> str:
    """An identifier, a person or a score as text; empty where there is none."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
    return "" if value is None or isinstance(value, (bool, list, dict)) else str(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _short(value: Any) -> str:
    return json.dumps(value)[:200]


def _annotation(rating: Rating) -> dict[str, Any]:
    times = {"created_at": rating.rated_at, "updated_at": rating.rated_at} if rating.rated_at else {}
    value = {"choices": [str(rating.score)]}
    return {
        "completed_by": {"email": rating.rater},
        "was_cancelled": False,
        **times,
        "result": [{"from_name": _CONTROL, "to_name": _OBJECT, "type": "choices", "value": value}],
    }


def _data(item: EditToLabel) -> dict[str, str]:
    return {
        "edit_id": item.edit_id,
        "edit_type": item.edit_type,
        "instruction": item.instruction,
        "source": _data_uri(f"{item.edit_id}: source", item.source),
        "edited": _data_uri(f"{item.edit_id}: edited", item.edited),
    }


def _data_uri(what: str, image: bytes) -> str:
    if (kind := image_kind(image)) is None:
        raise ValueError(f"{what} is neither PNG nor JPEG")
    return data_uri(image, kind)
