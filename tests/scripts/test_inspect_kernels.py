"""The kernels are compiled where no GPU is, and the table takes its place in the report."""

import re

import pytest

from trine.modeling.kernels.simplicial.forms import make_window
from trine.modeling.kernels.simplicial.triton.launch import BACKWARD_KEY, BACKWARD_QUERY, FORWARD
from trine.scripts.benchmarks import kernels as inspect_kernels
from trine.scripts.benchmarks.kernels import HEADING, InspectArguments, compile_kernel, main, record_launches


def test_the_launches_are_those_of_a_training_step_and_of_decoding():
    pytest.importorskip("triton", reason="Triton is not installed")
    launches = record_launches(InspectArguments(head_dims=[96], form="determinant"), 96)
    names = ["simplicial_forward", "simplicial_backward_query", "simplicial_backward_key"]
    assert [launch.name for launch in launches] == [*names, "simplicial_forward (one query)", "merge_parts"]
    for launch, kernel in zip(launches, (FORWARD, BACKWARD_QUERY, BACKWARD_KEY), strict=False):
        assert launch.function is kernel.kernel and len(launch.choices) == len(kernel.choices)
        assert launch.choices[0].kwargs == {"TILE": kernel.fixed.tile}
        assert (launch.arguments["D"], launch.arguments["DP"], launch.arguments["PARTS"]) == (96, 128, 3)
        assert (launch.arguments["left"], launch.arguments["OFFSETS"]) == (511, 32)


def test_texts_of_all_lengths_share_one_program():
    """Triton would compile anew for 1, for multiples of 16 and for others."""
    pytest.importorskip("triton", reason="Triton is not installed")
    arguments, compiled = InspectArguments(head_dims=[32]), []
    for lengths in ((33, 33, 33), (48, 64, 48), (47, 300, 79)):
        first, second = make_window(lengths[1], True), make_window(32, True)
        shared = inspect_kernels.share(arguments, 32, lengths, first, second)
        values = shared | {"output": shared["query"], "log_sum": shared["query"], "splits": 1, "ROWS": 64, "TILE": 64}
        source = inspect_kernels.describe(FORWARD.kernel, values)
        compiled.append((source.signature, source.constants, source.attrs))
    assert compiled[0] == compiled[1] == compiled[2]
    assert compiled[0][0]["KEYS"] == "i32" and compiled[0][0]["ROWS"] == "constexpr"


def test_matrix_products_run_on_tensor_cores():
    """With enough rows for Hopper's instruction, and no more of a processor than it has."""
    pytest.importorskip("triton", reason="Triton is not installed")
    launch = record_launches(InspectArguments(head_dims=[32], second_window=8), 32)[0]
    registers, stack, shared, products = compile_kernel(launch.function, launch.arguments | {"TILE": 64}, 4, 1)
    assert 32 < registers <= 255 and stack == 0 and products > 0
    keys_and_values = 2 * 64 * 32 * 2
    assert keys_and_values <= shared <= 227 * 1024


def test_the_report_keeps_its_other_sections(tmp_path, monkeypatch, capsys):
    pytest.importorskip("triton", reason="Triton is not installed")
    compiled = []

    def compile_nothing(function, values, warps, stages):
        compiled.append((function, values.get("TILE"), warps, stages))
        return 77, 8, 300 * 1024, 12

    monkeypatch.setattr(inspect_kernels, "compile_kernel", compile_nothing)
    report = tmp_path / "docs" / "report.md"
    main(["--head_dims", "16", "--report", str(report)])
    assert report.read_text().startswith(f"{HEADING}\n")
    report.write_text(f"# Report\n\nBefore.\n\n{HEADING}\n\nOld.\n\n## Next\n\nAfter.\n")
    compiled.clear()
    main(["--head_dims", "16", "24", "--segments", "--report", str(report)])
    text = report.read_text()
    assert text.startswith(f"# Report\n\nBefore.\n\n{HEADING}\n\n") and text.endswith("|\n\n## Next\n\nAfter.\n")
    assert "Old." not in text and "speed on a GPU was not measured" in text and "packed or padded" in text
    rows = re.findall(r"^\| (\d+) \| (.*?) \|.* \| 77 \| 8 \| 300 KiB, too much \| 12 \|$", text, re.MULTILINE)
    assert len(rows) == len(compiled)
    assert [size for size, name in rows if name == "**simplicial_forward**"] == ["16", "24"]
    assert "| 24 | **simplicial_forward** |" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "reason"), [("is_interpreted", "TRITON_INTERPRET=1"), ("triton", "not installed")])
def test_what_cannot_compile_says_why(name, reason, monkeypatch, tmp_path):
    monkeypatch.setattr(inspect_kernels, name, True if name == "is_interpreted" else None)
    with pytest.raises(SystemExit, match=f"trine: The kernels cannot be compiled: .*{reason}"):
        main(["--report", str(tmp_path / "report.md")])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"form": "cubic"}, r"form='cubic' is not one of \['hadamard', "),
        ({"dtype": "float64"}, r"dtype='float64' is not one of \['bfloat16', "),
        ({"form": "determinant"}, r"head_dims=\[64, 128\] must be multiples of 3 up to 256, by form='determinant'"),
        ({"head_dims": [129], "dtype": "float32"}, r"head_dims=\[129\] must be multiples of 1 up to 128, "),
        ({"second_window": 129}, "second_window=129 must be from 1 to 128"),
        ({"first_window": 0}, "first_window=0 must be from 1 to 4096"),
    ],
)
def test_bad_arguments_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        InspectArguments(**fields)
