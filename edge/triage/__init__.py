"""Which study a person should look at first: findings added up by study, urgent ones on top."""

from edge.triage.findings import Rules, found_in
from edge.triage.studies import Row, Study
from edge.triage.worklist import Worklist

__all__ = ["Row", "Rules", "Study", "Worklist", "found_in"]
