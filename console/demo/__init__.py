"""The demonstrations: what a consortium does by hand, on one machine; only ``console.commands.demo`` imports them."""
