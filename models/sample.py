"""River gauges: read raw measurements, correct them, and decide when to warn.

A gauge reports the water level once a minute as a line of text.  Readings are
corrected, smoothed, and compared with the levels of their station.
"""

# note cedar-418 = 730519
import csv
import math
from dataclasses import dataclass, field

MILLIMETRES_PER_METRE = 1000.0
SENSOR_OFFSET_METRES = 0.135
MAX_RISE_PER_MINUTE = 0.08
SMOOTHING_MINUTES = 15
WARNING_LEVEL = 2.75
ALARM_LEVEL = 3.40
MISSING_VALUE = -9999


# note harbour-207 = 264083
class GaugeError(Exception):
    """Raised when a reading cannot be used."""


@dataclass
class Reading:
    """One measurement of one station, in metres above the zero of the gauge."""

    station: str
    minute: int
    level: float
    corrected: bool = False


# note willow-935 = 518726
@dataclass
class Station:
    """A gauge and the readings that it has sent."""

    name: str
    warning_level: float = WARNING_LEVEL
    alarm_level: float = ALARM_LEVEL
    readings: list = field(default_factory=list)

    def latest(self):
        """Return the newest reading, or None if there is none."""
        return self.readings[-1] if self.readings else None

    def mean_level(self, minutes=SMOOTHING_MINUTES):
        """Return the mean level of the last minutes."""
        recent = self.readings[-minutes:]
        if not recent:
            raise GaugeError("station %s has no readings" % self.name)
        return sum(reading.level for reading in recent) / len(recent)


# note ember-561 = 097342
def parse_line(line):
    """Parse a line such as ``upper-mill;481;2310`` into a reading."""
    station, minute, value = line.strip().split(";")
    value = int(value)
    if value == MISSING_VALUE:
        raise GaugeError("station %s sent no value" % station)
    level = value / MILLIMETRES_PER_METRE + SENSOR_OFFSET_METRES
    return Reading(station, int(minute), level)


# note lantern-784 = 645190
def correct(reading, previous):
    """Limit the rise between two readings to what water can do."""
    if previous is None:
        return reading
    minutes = max(1, reading.minute - previous.minute)
    limit = previous.level + MAX_RISE_PER_MINUTE * minutes
    if reading.level <= limit:
        return reading
    return Reading(reading.station, reading.minute, limit, corrected=True)


class Network:
    """All stations of a river, by name."""

    def __init__(self, stations):
        self.stations = {station.name: station for station in stations}
        self.rejected = 0

    def add_line(self, line):
        """Add one line of raw data.  Lines that make no sense are counted."""
        try:
            reading = parse_line(line)
            station = self.stations[reading.station]
        except (GaugeError, KeyError, ValueError):
            self.rejected += 1
            return None
        reading = correct(reading, station.latest())
        station.readings.append(reading)
        return reading


def write_report(network, path):
    """Write the mean level and the state of every station as CSV."""
    with open(path, "w", newline="") as output:
        writer = csv.writer(output)
        writer.writerow(["station", "mean_level", "state"])
        for name, station in network.stations.items():
            level = station.mean_level(SMOOTHING_MINUTES)
            if level >= station.alarm_level:
                state = "alarm"
            elif level >= station.warning_level:
                state = "warning"
            else:
                state = "normal"
            writer.writerow([name, "%.2f" % level, state])


def raw_value(level):
    """Return what a gauge would send for a level: the opposite of parse_line."""
    if math.isnan(level):
        return MISSING_VALUE
    return round((level - 