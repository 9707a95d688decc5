"""Sections of a README: a configuration has one, between two markers, and what stands outside of them stays."""

import re

from huggingface_hub import DatasetCard


LOOK = "- Look:"  # what the line begins with that links a page, in a section


def merge_card(readme: str | None, card: DatasetCard, config: str) -> str:
    """A README with the card's section and head in it.

    The section replaces an earlier one of the same configuration or goes to the end; all other text stays. Of the
    head, lists get our entries beside those they have, `configs` and `dataset_info` have been put in before, and
    other keys are filled in only where they are missing.

    Raises:
        `ValueError`: One of the section's two markers was removed.
    """
    if readme is None:
        return str(card)
    merged = DatasetCard(readme)
    for name, value in card.data.to_dict().items():
        present = merged.data.get(name)
        if name in ("configs", "dataset_info") or present is None:
            merged.data[name] = value
        elif isinstance(value, list):
            present = present if isinstance(present, list) else [present]
            merged.data[name] = present + [entry for entry in value if entry not in present]
    section = section_of(card.text, config)
    present = section_of(merged.text, config)
    line_break = "\r\n" if "\r\n" in merged.text else "\n"
    section = section.replace("\n", line_break)
    if present is not None:
        merged.text = merged.text.replace(present, section)
    else:
        gap = line_break if merged.text.endswith("\n") else line_break * 2
        merged.text += f"{gap}{section}{line_break}"
    return str(merged)


def markers(config: str) -> tuple[str, str]:
    """What a configuration's section begins and ends with."""
    return f"<!-- diq:{config} -->", f"<!-- /diq:{config} -->"


def section_of(text: str, config: str) -> str | None:
    """A configuration's section of a README, with its markers.

    Raises:
        `ValueError`: One of them was removed.
    """
    start, end = markers(config)
    if start not in text and end not in text:
        return None
    found = re.search(f"{re.escape(start)}.*?{re.escape(end)}", text, flags=re.DOTALL)
    if found is None or text.count(start) + text.count(end) != 2:
        raise ValueError(
            f"README.md must hold the markers {start} and {end} once each, in this order. Put back the one that is "
            "missing, or remove both."
        )
    return found[0]


def look_line(space: str) -> str:
    """The line that links a Space with a page."""
    return f"{LOOK} [its report](https://huggingface.co/spaces/{space})"


def linked_page(readme: str | None, config: str) -> str | None:
    """Such a line of a README's section, if it has one: the next push keeps it."""
    section = section_of(readme or "", config) or ""
    return next((line.rstrip() for line in section.splitlines() if line.startswith(LOOK)), None)


def with_link(readme: str, config: str, space: str) -> str:
    """A README whose section links a Space, instead of another one if it links one; all else stays.

    Raises:
        `ValueError`: It has no such section.
    """
    section = section_of(readme, config)
    if section is None:
        raise ValueError(f"README.md has no section between the markers {' and '.join(markers(config))}.")
    lines = [line for line in section.splitlines(keepends=True) if not line.startswith(LOOK)]
    line_break = "\r\n" if "\r\n" in section else "\n"
    before = [i for i, line in enumerate(lines) if line.startswith("- Load:")]
    at = before[0] if before else len(lines) - 1  # cards of the first versions had no such lines
    lines[at:at] = [look_line(space) + line_break]
    return readme.replace(section, "".join(lines))
