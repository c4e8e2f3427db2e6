"""The recording client: drives one workload and says what it saw, and whether that can be believed."""

from perfgate.client.drive import Progress
from perfgate.client.endpoint import Endpoint
from perfgate.client.load import run_load
from perfgate.client.run import run_record
from perfgate.client.validity import judge_server, judge_validity

__all__ = ["Endpoint", "Progress", "judge_server", "judge_validity", "run_load", "run_record"]
