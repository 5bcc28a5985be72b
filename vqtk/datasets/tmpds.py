from vqtk.nn.types import DataSpec, Count
from vqtk.registry import datasets
@datasets.register("svhn")
class SVHN:
    """S."""
    @property
    def spec(self): return DataSpec("image",(3,32,32),mean=.5,std=.5)
@datasets.register("cifar10")
class CIFAR:
    """S."""
    @property
    def spec(self): return DataSpec("image",(3,32,32),mean=.5,std=.5)
@datasets.register("celeba")
class Celeba:
    """S."""
    def __init__(self,*,size: Count=64): self.size=size
    @property
    def spec(self): return DataSpec("image",(3,self.size,self.size),mean=.5,std=.5)
@datasets.register("wikitext2")
class Wikitext2:
    """S."""
    def __init__(self,*,length: Count=128, vocabulary: Count=100): self.a=length,vocabulary
    @property
    def spec(self): return DataSpec("text",(self.a[0],),classes=self.a[1])
@datasets.register("modelnet")
class Modelnet:
    """S."""
    def __init__(self,*,size: Count=64): self.size=size
    @property
    def spec(self): return DataSpec("voxels",(1,self.size,self.size,self.size))
