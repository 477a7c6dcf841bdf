"""LoRA and prefix-tuning with the same model, data and number of parameters, for comparison with steering methods.

    design = AdapterDesign("lora", parameters=atv.n_parameters)
    adapter = train_adapter(model, "smollm2-135m-instruct", tasks, design=design, training=Training())
    adapter.evaluate(prompts), adapter.answer(prompts)

Needs the extra ``peft`` (``pip install "cast-lens[peft]"``).
"""

from .adapter import Adapter, train_adapter
from .peft_model import LEARNING_RATES, AdapterDesign, AdapterKind

__all__ = ["LEARNING_RATES", "Adapter", "AdapterDesign", "AdapterKind", "train_adapter"]
