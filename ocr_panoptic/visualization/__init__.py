"""Pictures of panoptic results, soft object regions and losses, and the page that shows them."""
