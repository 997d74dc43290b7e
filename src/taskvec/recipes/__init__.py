"""A merge as data: `Recipe`, what it would do (`Plan`), and the formats that recipes are read from."""

from taskvec.recipes.document import Document as Document
from taskvec.recipes.plan import Plan as Plan
from taskvec.recipes.readers import Reader as Reader
from taskvec.recipes.readers import register as register
from taskvec.recipes.recipe import Recipe as Recipe
