"""English documents from the formats of packages."""

import gzip

from trine.scripts.datasets.prose import detagged, parse_dictionary, parse_glosses, parse_manual, select_documents


def test_brown_becomes_prose():
    tagged = "\n\n\t``/`` Is/bez it/pps (/( far/rb )/) ?/. ?/. ''/'' ,/, she/pps asked/vbd ./.\nNo/rb ./.\n\n\n"
    tagged += "\tAnd/or/cc ;/. ;/. so/rb ./.\n"
    assert detagged(tagged) == '"Is it (far)?", she asked. No.\nAnd/or; so.'


def test_glosses_have_their_words():
    data = "  1 a licence | of it\n"
    data += '00001740 03 n 02 living_thing 0 being(a) 1 001 ~ 00001930 n 0000 | what lives; "a dog"  \n'
    assert list(parse_glosses(data)) == ['living thing, being: what lives; "a dog"']


def test_entries_lose_their_lines_and_links():
    text = "abstract data type\nADT\n\n   <programming> A {data\n   abstraction}.\n\n   More.\n\n   (1994-11-08)\n\n"
    text += "next\n\n   One.\n"
    assert list(parse_dictionary(gzip.compress(text.encode()))) == [
        "ADT: <programming> A data abstraction.\nMore.",
        "next: One.",
    ]


MANUAL = r"""
.\" a licence
.TH pipe 7
.SH NAME
pipe, fifo \- over\%view \
of \(lqpipes\(rq
.SH SYNOPSIS
.B int pipe(void);
.SS Macros
hidden
.SH "WHAT IT DOES"
A \fIpipe\fP has a
.IR "write end" ,
and \f[B]one\fR for
.BR read (2).
.nf
int main(void);
.fi
.PP
.TS
l l.
.TE
\&.so ends \e0.
"""


def test_a_manual_is_read_without_its_programs():
    assert parse_manual(MANUAL).splitlines() == [
        'pipe, fifo - overview of "pipes"',
        "WHAT IT DOES",
        "A pipe has a write end, and one for read(2).",
        ".so ends \\0.",
    ]


def test_short_and_equal_documents_are_left_out():
    rows = [("a", "one", "text " * 9), ("b", "two", "text " * 9), ("c", "two", "short"), ("d", "two", "other " * 9)]
    assert list(select_documents(rows)) == [
        ("a", {"text": "text " * 9, "source": "one"}),
        ("d", {"text": "other " * 9, "source": "two"}),
    ]
