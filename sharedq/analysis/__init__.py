"""What learning costs, and measures of how it goes. To add a measure, write a file and add a line here."""

from sharedq.analysis.action_gap import ActionGap
from sharedq.analysis.agreement import Agreement
from sharedq.analysis.dead_units import DeadUnits
from sharedq.analysis.gradient_alignment import GradientAlignment
from sharedq.analysis.measure import Measure
from sharedq.analysis.rank import Rank
from sharedq.analysis.residuals import Residuals
from sharedq.analysis.target_churn import TargetChurn

MEASURES = {
    "gradient_alignment": GradientAlignment,
    "target_churn": TargetChurn,
    "rank": Rank,
    "dead_units": DeadUnits,
    "residuals": Residuals,
    "action_gap": ActionGap,
    "agreement": Agreement,
}

__all__ = [
    "MEASURES",
    "ActionGap",
    "Agreement",
    "DeadUnits",
    "GradientAlignment",
    "Measure",
    "Rank",
    "Residuals",
    "TargetChurn",
]
