"""Parameter-efficient methods for speech encoders."""

from ser_peft.adapters.bottleneck import BottleneckConfig
from ser_peft.adapters.peft_lobe import PeftLobe, load_adapter
from ser_peft.adapters.prompts import PromptConfig

__all__ = ["BottleneckConfig", "PeftLobe", "PromptConfig", "load_adapter"]
