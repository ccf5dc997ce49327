"""What a sweep found, for people: one HTML file, and its charts as PNGs."""

from vitray.tune.report.page import report_figures, write_report

__all__ = ["report_figures", "write_report"]
