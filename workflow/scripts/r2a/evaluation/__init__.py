"""Stage 1 in numbers: the funnel, the accuracies, and the effect of reasoning (METHOD section 2)."""

from r2a.evaluation.attention_quality import quality_table, write_attention_quality
from r2a.evaluation.disagreements import disagreement_table, write_disagreements
from r2a.evaluation.tables import accuracy_table, effect_table, funnel_table, write_evaluation

__all__ = [
    "accuracy_table",
    "disagreement_table",
    "effect_table",
    "funnel_table",
    "quality_table",
    "write_attention_quality",
    "write_disagreements",
    "write_evaluation",
]
