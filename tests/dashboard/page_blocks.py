"""What tests look up in a page."""

from autotune.dashboard.page_elements import Detail, Table


def tables(detail: Detail) -> dict[str, Table]:
    """Tables by their captions."""
    return {block.caption: block for block in detail.blocks if isinstance(block, Table)}
