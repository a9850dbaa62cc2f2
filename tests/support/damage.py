"""Hypothesis strategies that damage a file, as disks, transfers and editors do."""

from collections.abc import Callable

from hypothesis import strategies as st


Damage = Callable[[bytes], bytes | None]  # the new content, or None for a file that is gone


def flip(share: float, bit: int) -> Damage:
    """Turns one bit over, at a share of the content."""

    def damaged(content: bytes) -> bytes:
        place = int(share * (len(content) - 1))
        return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]

    return damaged


def replace(share: float, new: bytes) -> Damage:
    """Writes other bytes over the content, from a share of it on."""

    def damaged(content: bytes) -> bytes:
        place = int(share * len(content))
        return content[:place] + new + content[place + len(new) :]

    return damaged


SHARES = st.floats(0, 1, exclude_max=True, width=16)


def damages() -> st.SearchStrategy[tuple[str, Damage]]:
    """The name and the function of each damage."""
    return st.one_of(
        st.builds(lambda share, bit: (f"bit {bit} at {share}", flip(share, bit)), SHARES, st.integers(0, 7)),
        st.builds(lambda share: (f"cut at {share}", lambda content: content[: int(share * len(content))]), SHARES),
        st.sampled_from([("gone", lambda content: None), ("empty", lambda content: b"")]),
        st.sampled_from(
            [
                ("doubled", lambda content: content * 2),
                ("noise", lambda content: bytes(255 - byte for byte in content[:1000])),
                ("zeros", lambda content: bytes(len(content))),
                ("other JSON", lambda content: b"[1, 2]"),
                ("null", lambda content: b"null"),
                ("surplus", lambda content: content + b"\n{}"),
            ]
        ),
    )


def overwritten() -> st.SearchStrategy[tuple[str, Damage]]:
    """Bytes over bytes, which text files meet."""
    news = st.sampled_from([b"\xff\xfe", b'"', b"\x00", b"\n", b"{", b"\\ud800", b"[" * 3000, b"\r", b"9" * 5000])
    return st.builds(lambda share, new: (f"{new[:6]!r} at {share}", replace(share, new)), SHARES, news)
