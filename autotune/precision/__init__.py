"""Where precision goes: logits against a float32 pass over the same weights, each operation alone on exact inputs"""
