"""The tests of exporters in a checkout of transformers 5.16, for the exporters of later versions.

These return an `ExportedModel`, where the tests expect the program in it. Without a checkout nothing is changed.
"""

import torch
from conformance.upstream import CHECKOUT, load


def run_onnx(exported, inputs) -> dict[str, torch.Tensor]:
    """Run an exported model of one graph in ONNX Runtime and return its outputs by name."""
    from transformers.exporters.utils import onnx_feed

    session = exported.runners["model"].session
    names = [output.name.removeprefix("output.") for output in session.get_outputs()]
    values = session.run(None, onnx_feed([taken.name for taken in session.get_inputs()], inputs))
    return dict(zip(names, map(torch.from_numpy, values), strict=True))


if CHECKOUT:
    tests = load("exporters.test_export")

    class ProgramExporter(tests.DynamoExporter):
        """Returns the program of torch.export itself."""

        def export(self, *args, **kwargs):
            return super().export(*args, **kwargs).program

    tests.DynamoExporter = ProgramExporter
    tests._run_onnx_program = run_onnx
