"""What a sweep found, for people: one HTML file, and its charts as PNGs."""

from vitray.tune.report.page import report_figures, write_report
from vitray.tune.report.view import SweepView

__all__ = ["SweepView", "report_figures", "write_report"]
