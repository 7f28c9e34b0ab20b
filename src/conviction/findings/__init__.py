"""Findings: why a net does not learn. One pure check a cause: evidence in, a Finding or nothing out."""

from __future__ import annotations

from conviction.findings.evidence import Evidence, Inputs, Labels, Overfit, StepSize, UpdateRatio
from conviction.findings.questioning import QUESTIONS, question
from conviction.findings.records import Finding

__all__ = ["QUESTIONS", "Evidence", "Finding", "Inputs", "Labels", "Overfit", "StepSize", "UpdateRatio", "question"]
