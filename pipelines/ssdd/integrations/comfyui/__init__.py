"""Nodes for ComfyUI: link this folder into `ComfyUI/custom_nodes`, where `ssdd` is installed."""

from ssdd.integrations.comfyui.comfy_nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
