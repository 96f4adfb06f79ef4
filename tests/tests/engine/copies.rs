//! No operand is copied unasked.

use crate::{cpu, random};
use attentia_backend::{DType, Device};
use attentia_tensor::{Result, Tensor, Var, materialised_bytes};
use attentia_tests::outside::Outside;

#[test]
fn nothing_is_copied_unasked() {
    // The only test of this file in which a reshape has to copy: the counter belongs to the process.
    let device = cpu(1);
    let x = random(1, &[4, 6, 8], DType::F32, &device).unwrap();
    let cases: [(&str, &dyn Fn() -> Result<Tensor>); 16] = [
        ("transposed product", &|| x.transpose(1, 2)?.matmul(&x)),
        ("broadcast sum", &|| &x + &x.narrow(1, 0, 1)?),
        ("reversed softmax", &|| x.flip(2)?.softmax(-1)),
        ("softmax along another axis", &|| x.softmax(1)),
        ("sliced norm", &|| x.slice(1, .., 2)?.layer_norm(None, None, 1e-5)),
        ("permuted reduction", &|| x.permute(&[2, 0, 1])?.sum(&[0, 2], false)),
        ("reshape that splits a transposed axis", &|| x.transpose(0, 1)?.reshape(&[6, 2, 2, 8])),
        ("reshape of a slice", &|| x.narrow(0, 1, 2)?.reshape(&[-1, 8])),
        ("flatten", &|| x.flatten()),
        ("windows", &|| x.i((.., 1..3, 2..7))?.gelu()),
        ("squeeze", &|| x.narrow(0, 0, 1)?.squeeze(0)?.unsqueeze(1)?.exp()),
        ("cat", &|| Tensor::cat(&[&x.transpose(0, 2)?, &x.transpose(0, 2)?], 1)),
        ("gather", &|| x.transpose(0, 2)?.gather(0, &x.transpose(0, 2)?.argmax(0, true)?)),
        ("sort of a column", &|| Ok(x.transpose(0, 2)?.sort(0, false)?.0)),
        ("cumsum of a column", &|| x.transpose(0, 2)?.cumsum(1)),
        ("embedding with a transposed table", &|| {
            x.select(0, 0)?.t()?.embedding(&Tensor::from_slice(&[3i64, 0], &[2], &device)?)
        }),
    ];
    for (name, case) in cases {
        let before = materialised_bytes();
        case().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(materialised_bytes() - before, 0, "{name} copied an operand");
    }
    let before = materialised_bytes();
    x.transpose(0, 1).unwrap().flatten().unwrap();
    assert_eq!(materialised_bytes() - before, 4 * 6 * 8 * 4, "a reshape that can't be a view is counted");
}

#[test]
fn a_strided_operand_is_read_in_place() {
    // No call of `copy`, counted at the backend: the whole step works on views.
    let (backend, calls) = Outside::counting(cpu(1));
    let device = Device::new(backend);
    let w = Var::new(random(1, &[8, 6], DType::F32, &device).unwrap()).unwrap();
    let x = random(2, &[6, 5], DType::F32, &device).unwrap().t().unwrap();
    let loss = x.matmul(&w.tensor().t().unwrap()).unwrap().softmax(0).unwrap().square().unwrap().mean_all().unwrap();
    let grads = loss.backward().unwrap();
    assert_eq!(grads.get(&w).unwrap().shape().as_slice(), [8, 6]);
    assert_eq!(calls.of("copy"), 0);
    assert!(calls.of("matmul") >= 2 && calls.of("softmax") == 1 && calls.of("softmax_backward") == 1);
}
