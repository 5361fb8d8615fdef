"""Images: from a reference to something a machine can boot from.

`midge.images.store.ImageStore` is the door; `midge.images.model` has what it hands out, `midge.images.limits` every
limit, `midge.images.paths` the layout on disk. The other modules are the store's own.
"""
