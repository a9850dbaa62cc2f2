"""The energy that a piece of work takes, by codecarbon: read from the machine's counters, or estimated."""

import difflib
import logging
from dataclasses import dataclass
from typing import Any


JOULES_PER_KWH = 3.6e6
SOME_COUNTRY = "USA"  # codecarbon wants one, also where no CO2 is counted
# How codecarbon calls what it computes from the power that the maker names: by the process's time, or half of it.
ESTIMATES = ("cpu_load", "constant")


@dataclass(frozen=True)
class EnergyUse:
    """The energy of a piece of work.

    Attributes:
        processor_joules: Of this process's share of the CPU, or of the whole CPU where it has counters.
        gpu_joules: Of the GPUs, by their counters.
        memory_joules: Of the memory, which is always estimated, from its size and the time on the clock.
        co2_kg: What the country's mix of electricity emits for all of it; None without a country.
        is_estimated: Whether the CPU has no counter that can be read: then its energy is the share of its time that
            the process had, of the power that its maker names.
    """

    processor_joules: float
    gpu_joules: float
    memory_joules: float
    co2_kg: float | None
    is_estimated: bool

    @property
    def joules(self) -> float:
        """All together."""
        return self.processor_joules + self.gpu_joules + self.memory_joules

    @property
    def kwh(self) -> float:
        """All together, in kilowatt hours."""
        return self.joules / JOULES_PER_KWH

    def per(self, count: int) -> float:
        """Joules for each of `count` tokens or requests; 0 where there was none."""
        return self.joules / count if count else 0.0


class EnergyMeter:
    """Measures the energy between `start` and `stop`, offline: nothing is sent anywhere, and no file is written.

    Args:
        country: Three letters (ISO 3166), whose mix of electricity decides the CO2. By default none is counted.

    Raises:
        ImportError: codecarbon is not installed.
        ValueError: codecarbon does not know the country; it would count a mean of the world without a word.
    """

    def __init__(self, country: str | None = None):
        try:
            from codecarbon.input import DataSource
        except ImportError as error:
            raise ImportError("Measuring energy needs the package codecarbon: pip install 'trine[energy]'.") from error
        known = DataSource().get_global_energy_mix_data()
        if country is not None and country not in known:
            alike = difflib.get_close_matches(country.upper(), known, n=5, cutoff=0.3)
            raise ValueError(
                f"country={country!r} must be the three letters of a country in ISO 3166, such as "
                f"{', '.join(alike or ['DEU', 'USA', 'CHN'])}."
            )
        logging.getLogger("codecarbon").setLevel(logging.ERROR)
        self.country = country
        self._tracker: Any = None

    def start(self) -> None:
        """Starts to measure, anew."""
        from codecarbon import OfflineEmissionsTracker

        self._tracker = OfflineEmissionsTracker(
            country_iso_code=self.country or SOME_COUNTRY,
            save_to_file=False,
            log_level="error",
            tracking_mode="process",
            allow_multiple_runs=True,
        )
        self._tracker.start()

    def stop(self) -> EnergyUse:
        """Returns the energy since `start`."""
        co2_kg = self._tracker.stop()
        return self._read(self._tracker.final_emissions_data, co2_kg)

    def so_far(self) -> EnergyUse:
        """Returns the energy since `start`, and goes on measuring."""
        co2_kg = self._tracker.flush()
        return self._read(self._tracker._prepare_emissions_data(), co2_kg)

    def _read(self, data: Any, co2_kg: float | None) -> EnergyUse:
        processors = [part for part in self._tracker._hardware if type(part).__name__ == "CPU"]
        return EnergyUse(
            processor_joules=data.cpu_energy * JOULES_PER_KWH,
            gpu_joules=data.gpu_energy * JOULES_PER_KWH,
            memory_joules=data.ram_energy * JOULES_PER_KWH,
            co2_kg=co2_kg if self.country else None,
            is_estimated=any(part._mode in ESTIMATES for part in processors),
        )
