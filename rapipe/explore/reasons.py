"""Why a prediction is right or wrong, in words: what retrieval found, and what was made of it."""

from __future__ import annotations

from typing import Any

NONE = "none"


def reason(facts: dict[str, Any]) -> str:
    """Two or three sentences on an answer: see `rapipe.explore.explorer.Answering`."""
    sentences = [_verdict(facts)]
    if facts["neighbours"]:
        sentences += [_of_retrieval(facts), _of_fusion(facts)]
    elif facts["retrieval"] == NONE:
        sentences.append("This classifier looks nothing up.")
    else:
        sentences.append(_of_vector(facts))
    return " ".join(sentence for sentence in sentences if sentence)


def _verdict(facts: dict[str, Any]) -> str:
    first = facts["predictions"][0]
    predicted, sure = first["classes"][0]["class"], first["classes"][0]["probability"]
    if not facts["truth"]:
        return f"It says {predicted}, {sure:.0%} sure."
    if predicted == facts["truth"]:
        return f"Right: it says {predicted}, {sure:.0%} sure."
    return (
        f"Wrong: it says {predicted}, {sure:.0%} sure; it is {facts['truth']}, "
        f"which it gives {first['of_truth']:.0%}."
    )


def _of_retrieval(facts: dict[str, Any]) -> str:
    k, vote, truth = facts["k"], facts["vote"], facts["truth"]
    if not vote:
        return f"None of the {k} neighbours has a class of the task."
    most, count = vote[0]["class"], vote[0]["count"]
    if not truth:
        return f"Of its {k} neighbours, {_are(count)} {most}."
    right = next((row["count"] for row in vote if row["class"] == truth), 0)
    if most == truth:
        return f"Retrieval found the class: of {k} neighbours, {_are(right)} {truth}."
    found = f"only {_are(right)} {truth}" if right else f"none is {truth}"
    return f"Retrieval failed: of {k} neighbours, {_are(count)} {most} and {found}."


def _are(count: int) -> str:
    return f"{count} {'is' if count == 1 else 'are'}"


def _of_fusion(facts: dict[str, Any]) -> str:
    predicted, truth = facts["predicted"], facts["truth"]
    with_none = facts["predictions"][1]["classes"][0]
    without, sure = with_none["class"], with_none["probability"]
    most = facts["vote"][0]["class"] if facts["vote"] else ""
    if without == predicted:
        agreed = f"Shown none, it says {without} as well ({sure:.0%}): "
        if predicted == truth or not truth:
            return agreed + "the neighbours do not decide it."
        if most == truth:
            return agreed + "it does not follow its neighbours, who are right."
        return agreed + "the mistake is its own, and its neighbours do not mend it."
    other = f"Shown none, it says {without} ({sure:.0%}): "
    if not truth:
        return other + "the neighbours decide it."
    if predicted == truth:
        return other + "the neighbours help."
    if without == truth:
        return other + "the neighbours mislead it."
    return other + "wrong both ways."


def _of_vector(facts: dict[str, Any]) -> str:
    first = facts["predictions"][1]["classes"][0]
    return (
        "It sees the image's own vector, and no neighbours. Without the vector it says "
        f"{first['class']} ({first['probability']:.0%})."
    )
