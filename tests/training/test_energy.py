"""The energy of a piece of work: what codecarbon measured, in joules, and what it is made of."""

import sys
from types import SimpleNamespace

import pytest

from trine.training.measures.energy import EnergyMeter


class CPU:
    """Of the name by which the meter knows a processor among the parts of the machine."""

    def __init__(self, mode: str):
        self._mode = mode


class Tracker:
    """codecarbon's tracker after a piece of work of 3 + 2 + 1 watt hours."""

    def __init__(self, **options):
        self.options = options
        self._hardware = [SimpleNamespace(), CPU("cpu_load")]
        self.final_emissions_data = SimpleNamespace(cpu_energy=0.003, gpu_energy=0.002, ram_energy=0.001)

    def start(self):
        """Begins."""

    def stop(self) -> float:
        """The CO2."""
        return 0.0024


@pytest.fixture
def tracker(monkeypatch):
    codecarbon = pytest.importorskip("codecarbon")
    made = []
    monkeypatch.setattr(
        codecarbon, "OfflineEmissionsTracker", lambda **options: made.append(Tracker(**options)) or made[-1]
    )
    return made


def test_joules(tracker):
    meter = EnergyMeter("DEU")
    meter.start()
    use = meter.stop()
    assert (use.processor_joules, use.gpu_joules, use.memory_joules) == pytest.approx((10_800, 7_200, 3_600))
    assert use.joules == pytest.approx(0.006 * 3_600_000) and use.kwh == pytest.approx(0.006) and use.co2_kg == 0.0024
    assert use.per(4) == pytest.approx(5_400) and use.per(0) == 0
    assert tracker[0].options["country_iso_code"] == "DEU" and tracker[0].options["save_to_file"] is False


@pytest.mark.parametrize(("mode", "is_estimated"), [("cpu_load", True), ("constant", True), ("intel_rapl", False)])
def test_it_says_where_it_estimates(tracker, mode, is_estimated):
    meter = EnergyMeter()
    meter.start()
    tracker[0]._hardware = [CPU(mode)]
    use = meter.stop()
    assert use.is_estimated is is_estimated
    assert use.co2_kg is None  # no country was named


@pytest.mark.parametrize("country", ["DE", "deu", "XXX", ""])
def test_an_unknown_country_is_refused(country):
    pytest.importorskip("codecarbon")
    with pytest.raises(ValueError, match=rf"country='{country}' must be the three letters .*, such as [A-Z]{{3}}"):
        EnergyMeter(country)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon.input", None)
    with pytest.raises(ImportError, match=r"pip install 'trine\[energy\]'"):
        EnergyMeter()
