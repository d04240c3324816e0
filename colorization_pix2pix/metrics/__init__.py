from ..core.errors import need_train

need_train()
