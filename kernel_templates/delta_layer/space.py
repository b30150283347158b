"""How a layer with a gated delta net can be built: its parts' parameters under prefixes, as those of any layer."""

from kernel_templates.layer.space import cuda as cuda
