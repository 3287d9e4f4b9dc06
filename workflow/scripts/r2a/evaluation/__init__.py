"""The tables of every analysis, from its stores: shares and means with intervals and tests (METHOD)."""

from r2a.evaluation.attention_quality import quality_table, write_attention_quality
from r2a.evaluation.disagreements import disagreement_table, write_disagreements
from r2a.evaluation.judge_tables import agreement_table, judge_effect_table, score_table, write_judge_tables
from r2a.evaluation.tables import accuracy_table, effect_table, funnel_table, write_evaluation

__all__ = [
    "accuracy_table",
    "agreement_table",
    "disagreement_table",
    "effect_table",
    "funnel_table",
    "judge_effect_table",
    "quality_table",
    "score_table",
    "write_attention_quality",
    "write_disagreements",
    "write_evaluation",
    "write_judge_tables",
]
