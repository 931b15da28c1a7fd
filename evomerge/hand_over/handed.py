"""What an export came to, for people and for scripts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomerge.hand_over.verify import Verified
    from evomerge.licences import Verdict


@dataclass(frozen=True)
class HandedOver:
    """What an export came to.

    Attributes:
        out: the model's folder.
        candidate: its entry in the run's summary.
        verified: what comparing the folder with the search's candidate came to; None: not asked.
        verdict: on the parents' licences.
        warnings: sentences.
        address: on the Hub; None: it was not pushed.
    """

    out: Path
    candidate: dict[str, Any]
    verified: Verified | None
    verdict: Verdict
    warnings: tuple[str, ...]
    address: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "out": str(self.out),
            "candidate": self.candidate,
            "verified": asdict(self.verified) if self.verified else None,
            "licences": asdict(self.verdict),
            "warnings": list(self.warnings),
            "address": self.address,
        }

    def lines(self) -> list[str]:
        """What to tell people."""
        said = [f"candidate {self.candidate['id']} written to {self.out}"]
        if self.verified is None:
            said.append("not verified (--no-verify)")
        elif self.verified.comparison is None:
            said.append(f"verified: {self.verified.weights} weights; {self.verified.note}")
        else:
            c = self.verified.comparison
            said.append(
                f"verified: {self.verified.weights} weights equal the search's candidate bit for bit; "
                f"logits differ by at most {c.logits:.3g}, divergence {c.divergence:.2g} nats, "
                f"{c.answers} of {c.prompts} greedy answers the same ({c.dtype}, {c.device})"
            )
        said += [f"warning: {text}" for text in self.warnings]
        said += [
            f"load it: AutoModelForCausalLM.from_pretrained('{self.out}', dtype='auto')",
            f"serve it: vllm serve {self.out}",
            f"convert it: python convert_hf_to_gguf.py {self.out} --outfile {self.out.name}.gguf",
        ]
        return [*said, f"pushed to {self.address}"] if self.address else said
